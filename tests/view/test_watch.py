"""The live view: a screen that fits its terminal, lines for a log, and few opened files."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from rich.console import Console

from batchgen.engine import Denoised
from batchgen.manifest import Picture
from batchgen.run import submissions
from batchgen.run.departures import Departure
from batchgen.run.owner import Owner
from batchgen.run.run import Run
from batchgen.run.stages import Notes, Stage, failure_of, read_stage, stage_file
from batchgen.shard.partial_shard import PartialShard
from batchgen.view.console import open_console
from batchgen.view.roster import AtWork
from batchgen.view.show_live import Screen, log_line
from batchgen.view.status import Status, read_status
from batchgen.view.watch import _Log, _Pace
from tests.support.rehearsal import write_prompts
from tests.support.specimens import StubEngine, done, opens, planned, published, worked, write_group
from tests.support.terminal import open_terminal

ME = Owner.me()
COLOUR = re.compile(r"\x1b\[[\d;]*3\d[;\dm]")
HOSTILE = "a \x1b[2Jcat “in”\nthe rain " + "very " * 50


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Ten pictures in three shards, submitted to two workers."""
    run = planned(tmp_path, ["a cat"] * 10)
    submissions.record_submission(run.directory, ["batchgen", "submit"], 2)
    return run


def joined(run: Run, worker: int, owner: Owner = ME) -> Notes:
    """A worker that lives, and is this process."""
    path = submissions.join(run.directory, 1, "worker", worker)
    path.write_text(json.dumps(asdict(owner)))
    notes = Notes(path)
    notes.name_device("cpu AVX512 fp32 threads=1")
    return notes


def at_work(run: Run) -> None:
    """One worker denoises its second group, another one compiles; a picture has failed."""
    first, second = joined(run, 0), joined(run, 1)
    first.begin_group(0, 1, 2, 2)
    write_group(PartialShard(run.directory, 0, 1, []), 2, failed=1)
    time.sleep(0.01)
    first.wrote(2, [failure_of(1, "out of memory", HOSTILE)])
    first.begin_group(0, 2, 2, 2)
    second.enter("compiling", "3 of 12")


def drawn(status: Status, columns: int, lines: int = 24) -> list[str]:
    """The screen in a terminal of this size."""
    file = io.StringIO()
    console = Console(file=file, width=columns, height=lines, force_terminal=True, no_color=True)
    console.print(Screen(status, 0.5, "Ctrl-C ends this view"))
    return re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()).splitlines()


def logged() -> tuple[_Log, io.StringIO]:
    """The lines for a log, and where they go."""
    console, file = open_console(), io.StringIO()
    console.file = file
    return _Log(console), file


def crowd(count: int) -> list[AtWork]:
    """Workers that denoise, the first two of which are loading; number 77 hangs."""
    busy = Stage("denoising", "group 2 of 9", "cuda H100", 5, 8, pictures=80, making_s=80.0)
    workers = [AtWork(1, n, f"n{n // 8}", busy, silent_s=3.0) for n in range(count)]
    loading = Stage("loading the model")
    workers[:2] = [replace(one, stage=loading, silent_s=0.5) for one in workers[:2]]
    workers[77] = replace(workers[77], silent_s=600.0)
    return workers


def test_a_worker_says_what_it_does_and_what_it_has_made(run: Run) -> None:
    at_work(run)
    status = read_status(run.directory)
    first, second = status.at_work
    assert (first.worker, first.stage.words, first.stage.shard) == (0, "denoising group 2 of 2", 0)
    assert (first.stage.pictures, first.stage.device) == (2, "cpu AVX512 fp32 threads=1")
    assert 0.005 <= (first.s_per_picture or 0.0) < 1
    assert status.pictures_per_second == pytest.approx(1 / (first.s_per_picture or 0.0))
    assert (second.stage.words, second.s_per_picture) == ("compiling 3 of 12", None)
    assert (status.written, status.failed_in_progress, status.starting) == (2, 1, "")
    (failure,) = status.last_failures
    assert (failure.key, failure.cause) == (1, "out of memory")
    assert json.loads(status.to_json())["at_work"][1]["stage"]["detail"] == "3 of 12"


def test_a_worker_that_makes_a_run_notes_each_group_and_what_failed(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat", "RAISE", *["a dog"] * 8])
    submissions.record_submission(run.directory, ["batchgen", "submit"], 1)
    notes = joined(run, 0)
    seen: list[tuple[int | None, str]] = []

    class Watched(StubEngine):
        def denoise(self, group: Sequence[Picture]) -> Denoised:
            (one,) = read_status(run.directory).at_work
            seen.append((one.stage.shard, one.stage.words))
            return super().denoise(group)

    worked(run, Watched(), notes)
    groups = [(shard, f"denoising group {n} of 2") for shard in (0, 1) for n in (1, 2)]
    assert list(dict.fromkeys(seen)) == [*groups, (2, "denoising group 1 of 1")]
    stage, _ = read_stage(notes.path) or pytest.fail("no note")
    assert (stage.text, stage.pictures) == ("finalizing the dataset", 10)
    assert [(one.key, one.cause, one.prompt) for one in stage.failures] == [
        (1, "exception", "RAISE")
    ]


def test_time_without_work_does_not_count_as_making(run: Run) -> None:
    notes = joined(run, 0)
    notes.begin_group(0, 1, 1, 2)
    notes.wrote(2)
    notes.wait("waiting for other workers' shards")
    time.sleep(0.3)
    notes.begin_group(1, 1, 1, 2)
    notes.wrote(2)
    stage, _ = read_stage(notes.path.with_suffix(".json")) or pytest.fail("no note")
    assert (stage.pictures, stage.making_s < 0.3) == (4, True)


def test_a_shorter_note_leaves_nothing_of_a_longer_one(run: Run) -> None:
    notes = joined(run, 0)
    notes.wrote(1, [failure_of(1, "exception", HOSTILE)] * 9)
    assert len(notes.path.read_bytes()) < 4000, "it is read whole"
    notes.enter("loading " * 20)
    notes.enter("publishing")
    assert notes.path.read_text().count("\n") == 1
    stage, _ = read_stage(notes.path) or pytest.fail("no note")
    assert (stage.text, len(stage.failures), len(stage.failures[0].prompt)) == ("publishing", 3, 80)


@pytest.mark.parametrize("words", ["compiling", "{}", "[1]", '{"text": 3}', "", '{"text'])
def test_a_note_that_is_damaged_or_of_an_older_version_is_words(run: Run, words: str) -> None:
    stage_file(joined(run, 0).path).write_text(words)
    (one,) = read_status(run.directory).at_work
    assert one.stage.text == (words if words and words != "{}" else "starting")


@pytest.mark.parametrize("columns", [40, 50, 60, 80, 120, 200])
def test_the_screen_fits_terminals_of_any_width(run: Run, columns: int) -> None:
    at_work(run)
    lines = drawn(read_status(run.directory), columns)
    assert max(map(len, lines)) <= columns
    text = "\n".join(lines)
    for told in ("running: 2 workers", "2/10 pictures  20%  1 failed", "30.0/min now", "worker"):
        assert told in text
    assert "failed 000000001: out of memory" in text
    assert ("shard  pictures" in text, "device" in text) == (columns >= 72, columns >= 100)
    (heads,) = [line.split() for line in lines if line.startswith("worker")]
    known = ["worker", "stage", "for", "pictures", "s/picture"]
    assert [head for head in heads if head not in ("shard", "device")] == known[
        : 3 if columns < 50 else 4 if columns < 60 else 5
    ], "no column is cut"
    if columns >= 60:
        assert "denoising group 2 of 2" in text
        assert "compiling 3 of 12" in text


def test_hundreds_of_workers_are_counted_and_the_slowest_shown(run: Run) -> None:
    at_work(run)
    status = replace(read_status(run.directory), at_work=crowd(400), workers=400)
    lines = drawn(status, 100)
    assert len(lines) <= 24
    shown = [line.split()[0] for line in lines if "denoising group" in line]
    assert shown[0] == "77", "it hangs"
    (others,) = re.findall(r"and ([\d,]+) denoising, 2 loading the model; the slowest", lines[-3])
    assert int(others) + len(shown) == 398


def test_a_prompt_cannot_command_the_terminal(run: Run) -> None:
    at_work(run)
    status = read_status(run.directory)
    log, file = logged()
    log.show(status, 0.0)
    for text in ("\n".join(drawn(status, 200)), file.getvalue()):
        assert "\x1b" not in text
        assert "a \\x1b[2Jcat “in” the rain" in text


def test_a_log_gets_a_line_for_a_change_and_no_line_twice(run: Run) -> None:
    log, file = logged()
    notes = joined(run, 0)
    for text, detail in (
        ("loading the model", ""),
        ("compiling", "1 of 2"),
        ("compiling", "2 of 2"),
    ):
        notes.enter(text, detail)
        for _ in range(3):
            log.show(read_status(run.directory), 0.0)
    partial = PartialShard(run.directory, 0, 1, [])
    for group in range(2):
        notes.begin_group(0, group + 1, 2, 2)
        write_group(partial, 2, failed=group)
        failures = [failure_of(3, "exception", "a cat")] * group
        notes.wrote(2, failures)
        for _ in range(3):
            log.show(read_status(run.directory), 1.0)
    told = file.getvalue().splitlines()
    phases = [line.partition("1 worker: ")[2] for line in told[:3]]
    assert phases == ["loading the model", "compiling 1 of 2", "compiling 2 of 2"]
    assert [line.split("  ")[1] for line in told[3:5]] == ["2/10 pictures", "4/10 pictures"]
    assert told[5:] == ["failed 000000003: exception: a cat"]


def test_a_long_run_gets_few_lines(run: Run) -> None:
    log, file = logged()
    status = replace(read_status(run.directory), state="running", pictures=100_000)
    for number in range(4_000):
        log.show(replace(status, in_progress=25 * number, at=number / 2), 1.0)
    assert 20 <= len(file.getvalue().splitlines()) <= 60


def test_the_present_rate_begins_with_the_first_picture(run: Run) -> None:
    pace, status = _Pace(), read_status(run.directory)
    written = [0] * 50 + list(range(200)) + [200] * 200
    rates = [
        pace.rate(replace(status, at=at, in_progress=n)) for at, n in enumerate(map(int, written))
    ]
    assert rates[49] == 0.0
    assert rates[60] == pytest.approx(1.0, rel=0.1)
    assert rates[-1] == 0.0, "nothing was written for minutes"


def test_cost_is_told_where_the_site_has_a_price(run: Run) -> None:
    status = read_status(run.directory)
    assert "cost" not in log_line(status, 0.0)
    priced = replace(status, cost=0.834, cost_to_go=12.5)
    assert log_line(priced, 0.0).endswith("  cost 0.83, about 12.50 to go")
    assert "cost 0.83, about 12.50 to go" in drawn(priced, 80)


def test_the_second_look_opens_only_the_notes_that_changed(run: Run) -> None:
    """Twelve workers, two of which have left."""
    everybody = [joined(run, worker) for worker in range(12)]
    for notes in everybody:
        notes.enter("loading the model")
    for notes in everybody[:2]:
        submissions.leave(notes.path.with_suffix(".json"), Departure.parse("stop flag: user"))
    read_status(run.directory)
    time.sleep(0.02)
    everybody[7].enter("publishing")
    with opens(run.directory.root) as opened:
        status = read_status(run.directory)
    assert len(status.at_work) == 10
    assert [path for path in opened if path.suffix == ".stage"] == [everybody[7].path]
    assert len(opened) < 10, opened


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "variables"), [(60, {"NO_COLOR": "1"}), (120, {})])
def test_status_watch_in_a_terminal(run: Run, columns: int, variables: dict[str, str]) -> None:
    """This process plays the workers."""
    at_work(run)
    command = [sys.executable, "-m", "batchgen", "status", str(run.directory.root), "--watch"]
    terminal = open_terminal(command, columns=columns, **variables)
    terminal.look("Ctrl-C ends this view")
    assert "compiling 3 of 12" in terminal.text
    assert bool(COLOUR.search(terminal.shown)) != ("NO_COLOR" in variables)
    width = 50 if columns == 120 else 110
    terminal.resize(width)
    joined(run, 2).enter("loading the model")
    text = terminal.look("loading the model")
    assert text.count("Ctrl-C ends this view") == text.count("running: 3 workers") == 1, text
    assert max(map(len, terminal.lines)) <= width
    terminal.press_ctrl_c()
    assert terminal.exit_code() == 3
    assert "Ctrl-C ends this view" not in terminal.text, "the live view is gone"
    assert "next: batchgen status" in terminal.text
    assert "Traceback" not in terminal.shown


@pytest.mark.slow
def test_a_pipe_gets_lines_without_escape_codes(run: Run) -> None:
    at_work(run)
    published(run.directory, *(done(shard, ok=4) for shard in (1, 2)))
    command = [sys.executable, "-m", "batchgen", "status", str(run.directory.root), "--watch"]
    dumb = os.environ | {"TERM": "dumb"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=dumb) as process:
        assert process.stdout
        first = process.stdout.readline()
        time.sleep(1.5)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert first.startswith("running  10/10 pictures  100%  1 failed  2/3 shards")
    assert process.returncode == 3
    assert "\x1b" not in first + rest
    assert rest.count("running") == 1, "the last status"


@pytest.mark.slow
def test_phases_of_a_run_that_compiles_are_told_in_order(tmp_path: Path) -> None:
    """The embedded model with blocks compiled for one picture: two graphs."""
    prompts = write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    sets = ("compile.mode=default", "engine.batch_size=1", "sampling.steps=2", "run.workers=1")
    sets += (f"run.compile_cache={tmp_path / 'code'}", "run.group_timeout_s=600")
    command = [sys.executable, "-m", "batchgen", "submit", prompts, "--out", tmp_path / "run"]
    for one in sets:
        command += ["--set", one]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    phases = ["loading the model", "compiling 1 of 2", "compiling 2 of 2"]
    found = [phase for line in told.splitlines() for phase in phases if line.endswith(phase)]
    # A look a second may miss a short one.
    assert found == [phase for phase in phases if phase in found], told
    assert set(found) & set(phases[1:]), told
