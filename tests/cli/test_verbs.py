"""Every verb on a finished run, and what a person sees of it."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.cli import making
from batchgen.dataset.card import dataset_card
from batchgen.dataset.statistics import Statistics
from batchgen.planning.planner import locate_model
from batchgen.run.run import create, open_run
from batchgen.settings.job import load_job
from batchgen.units import data_size, duration
from tests.support.rehearsal import Answer, ask, owners, settings, wait_until, write_prompts

ROOT = Path(__file__).parents[2]

Finished = tuple[Path, Answer]


def test_submit_shows_the_way_to_the_pictures(finished: Finished) -> None:
    run, answer = finished
    assert (answer.code, answer.err) == (0, "")
    assert f"40 pictures in 5 shards → {run}\n2 workers started.\n" in answer.out
    assert "30 ok, 10 failed, 0 pending of 40 pictures" in answer.out
    assert "  9 × exception" in answer.out
    for name in ("data/*.tar", "contact.jpg", "report.html", "README.md"):
        assert f"{run}/{name}" in answer.out


def test_the_same_submit_again_says_so_and_starts_no_worker(finished: Finished) -> None:
    run, _ = finished
    before = owners(run, "worker")
    same = {"run__workers": 2, "engine__batch_size": 4, "shards__pictures": 8}
    words = ["--rehearse", "--out", run, *settings(output__license="cc0-1.0", **same)]
    answer = ask("submit", run.parent / "prompts.parquet", *words)
    assert answer.code == 0
    assert f"{run} was planned before from the same inputs: continuing it." in answer.out
    assert "complete: 5 shards are published" in answer.out
    assert owners(run, "worker") == before


@pytest.mark.parametrize("verb", ["resume", "cancel"])
def test_a_complete_run_needs_nothing_more(verb: str, finished: Finished) -> None:
    answer = ask(verb, finished[0])
    assert answer.code == 0
    assert "complete" in answer.out
    assert ask("status", finished[0]).code == 0


def test_plan_tells_rows_sizes_shards_groups_time_and_bytes(finished: Finished) -> None:
    manifest = finished[0].parent / "prompts.parquet"
    chosen = settings(engine__batch_size=4, shards__pictures=8)
    answer = ask("plan", manifest, "--rehearse", *chosen)
    assert answer.code == 0
    for told in (
        f"38 rows, 40 pictures, from {manifest}",
        "128×128  28     no        30",
        "192×128",
        "5 of 8 pictures",
        "jpg, roughly",
    ):
        assert told in answer.out
    assert "Every row is valid. Nothing was written." in answer.out


def test_a_plan_is_one_json_object_for_programs(finished: Finished) -> None:
    manifest = finished[0].parent / "prompts.parquet"
    chosen = settings(engine__batch_size=4, shards__pictures=8)
    answer = ask("plan", manifest, "--rehearse", "--json", *chosen)
    told = json.loads(answer.out)
    assert (answer.code, told["rows"], told["pictures"], told["shards"]) == (0, 38, 40, 5)
    assert sum(shape["pictures"] for shape in told["shapes"]) == 40
    assert 0 < told["wall_s"] <= told["device_s"]
    assert (told["devices"], told["cost"], told["price_per_gpu_hour"]) == (1, None, None)
    assert (told["pictures_per_shard"], told["pictures_per_group"]) == (8, 4)
    assert list(told["json_types"]) == told["travelling"]


def test_every_number_of_a_plan_is_there_for_programs_too(tmp_path: Path) -> None:
    """As whole numbers, where they stand rounded in the text."""
    prompts = ["a red circle", "a blue circle " * 30, *["a star"] * 11]
    manifest = tmp_path / "prompts.parquet"
    widths = [64] * 12 + [128]
    pq.write_table(pa.table({"prompt": prompts, "width": widths, "topic": [1] * 13}), manifest)
    chosen = settings(
        engine__batch_size=4,
        shards__pictures=8,
        sampling__steps=4,
        model__long_prompts="truncate",
        cache__policy="multistep",
        audit__fraction=0.25,
        splits__validation=0.125,
    )
    told = json.loads(ask("plan", manifest, "--json", *chosen).out)
    text = ask("plan", manifest, *chosen).out.split("Every row")[0]
    full = told["pictures"] / (told["groups"] * told["pictures_per_group"])
    known = {
        *(f"{told[name]}" for name in ("rows", "pictures", "shards", "groups", "over_long")),
        *(f"{told[name]}" for name in ("pictures_per_shard", "pictures_per_group", "max_tokens")),
        *(f"{value}" for shape in told["shapes"] for value in shape.values()),
        *(duration(told["device_s"]), duration(told["wall_s"]), f"{told['devices']}"),
        *(f"{told['audited_share']:.2%}", f"{told['audited_share'] * told['pictures']:.0f}"),
        *(f"{told['splits']['validation']:.2%}", f"{full:.0%}", data_size(told["bytes"])),
        *(f"{manifest}", told["basis"], told["memory"], told["license"], *told["notes"]),
    }
    assert told["json_types"] == {"topic": "integer"}
    for one in sorted(known, key=len, reverse=True):
        text = re.sub(rf"(?<![\w.]){re.escape(one)}(?![\w.])", " ", text)
    assert re.findall(r"\d+", text) == [], text


def test_list_has_a_line_for_every_run_and_tells_what_is_none(
    finished: Finished, tmp_path: Path
) -> None:
    run = finished[0]
    damaged = tmp_path / "damaged" / ".batchgen"
    damaged.mkdir(parents=True)
    (damaged / "plan.json").write_text("{}")
    (tmp_path / "whole").symlink_to(run)
    answer = ask("list", tmp_path)
    assert answer.code == 0
    assert re.search(r"whole +complete +30 +10 +0 ", answer.out)
    assert "damaged" in answer.out
    assert f"There is no run in {run}." in ask("list", run).out
    answer = ask("list", run / "nowhere")
    assert (answer.code, "nowhere: no such folder" in answer.err) == (2, True)


def test_logs_are_followed_until_nobody_works(finished: Finished) -> None:
    answer = ask("logs", finished[0], "--follow")
    assert answer.code == 0
    assert answer.out.count("── ") == 2
    refused = ask("logs", finished[0], "--failed", "-f")
    assert refused.code == 2
    assert "leave --worker and --follow out" in refused.err


def test_status_as_json_is_one_object_whose_counts_add_up(finished: Finished) -> None:
    answer = ask("status", finished[0], "--json")
    told = json.loads(answer.out)
    assert answer.code == 0
    assert told["ok"] + told["failed"] + told["pending"] == told["rows"] == 40
    assert told["state"] == "complete"
    assert (told["shards_done"], told["shards"]) == (5, 5)
    assert sum(told["failures"].values()) == told["failed"]
    assert told["next"].startswith("batchgen verify ")
    assert told["cause"]
    # A worker may still be ending when the run is complete.
    wait_until(lambda: json.loads(ask("status", finished[0], "--json").out)["workers"] == 0)


def test_watching_a_run_nobody_works_on_returns(finished: Finished) -> None:
    assert ask("status", finished[0], "--watch").code == 0
    assert json.loads(ask("status", finished[0], "--watch", "--json").out)["state"] == "complete"


def test_verify_counts_shards(finished: Finished) -> None:
    answer = ask("verify", finished[0], "--deep")
    assert (answer.code, answer.out) == (0, "5 shards are sound, 0 are not, 0 are not done yet\n")


def test_logs_are_of_all_workers_or_of_one(finished: Finished) -> None:
    run, _ = finished
    assert "0001-worker-000.log" in ask("logs", run).out
    alone = ask("logs", run, "--worker", 1, "-n", 1).out.splitlines()
    assert [line for line in alone if "worker-000" in line] == []
    assert len(alone) == 2
    assert "No log *-worker-007.log in " in ask("logs", run, "--worker", 7).out


def test_logs_of_failures_name_picture_row_id_and_reason(finished: Finished) -> None:
    failed = ask("logs", finished[0], "--failed").out
    assert failed.count("exception: RuntimeError") == 9
    assert "000000001 row 1 id 'cat.1/../x': not finite: the latents hold NaN or infinity" in failed


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("prompts.parquet", "prompts"),
        ("my.prompts.v2.parquet", "my.prompts.v2"),
        ("table/*.parquet", "table"),
        ("table/part-*.parquet", "part"),
        ("table", "table"),
        ("prompts.csv.gz", "prompts"),
        ("table/../table/", "table"),
    ],
)
def test_a_run_is_named_after_its_manifest(
    given: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "table").mkdir()
    (tmp_path / "prompts.csv.gz").write_bytes(gzip.compress(b"prompt\na cat\n"))
    for file in ("prompts.parquet", "my.prompts.v2.parquet", "table/part-0.parquet"):
        write_prompts(tmp_path / file, ["a cat"])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(making, "go", lambda *_, **__: None)
    assert ask("submit", given).code == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [name]
    assert ask("submit", given, "--rehearse").code == 0
    assert (tmp_path / "runs" / f"{name}-rehearsal").is_dir()


def test_brackets_in_names_are_shown_as_they_are_and_commands_can_be_pasted(tmp_path: Path) -> None:
    run = tmp_path / "cats [bold] [/x] :cat:"
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    create(run, [file], *locate_model(load_job(None)))
    assert f"next: batchgen resume '{run}'" in ask("status", run).out


def test_values_that_change_nothing_are_told_by_plan_submit_and_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, out = tmp_path / "prompts.parquet", tmp_path / "run"
    write_prompts(file, ["a cat", "a dog"], negative_prompt=["grey", None])
    told = "1 row has a negative_prompt that changes nothing: it acts where true_cfg is over 1"
    assert f"\nnote       {told}\n" in ask("plan", file).out
    monkeypatch.setattr(making, "go", lambda *_, **__: None)
    assert f"\nnote: {told}\n" in ask("submit", file, "--out", out).out
    nothing = Statistics(0, 0, 0, {}, {}, {}, 0, 0.0, {})
    assert f"\n- {told}\n" in dataset_card(open_run(out), nothing)


def test_plan_tells_how_a_table_is_read_and_which_columns_travel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, job = tmp_path / "prompts.csv", tmp_path / "job.toml"
    extras = ";".join(f"c{i}" for i in range(30))
    file.write_text(f"caption;seeds;{extras}\na cat;7{';x' * 30}\n", encoding="utf-16")
    asked = ["--rehearse", "--column", "prompt=caption", "--column", "seeds="]
    told = ask("plan", file, *asked).out
    assert "\nread as    CSV separated by semicolons, UTF-16\n" in told
    assert "\ncolumns    caption (read as prompt)\n" in told
    assert "\ntravelling seeds, c0, c1, " in told
    assert "c18 and 11 more\n" in told
    job.write_text('[manifest]\ncolumns = {prompt = "caption", seed = "seeds"}\n')
    told = ask("plan", file, "--rehearse", "--job", job).out
    assert "\ncolumns    caption (read as prompt), seeds (read as seed)\n" in told
    told = ask("plan", file, "--rehearse", "--job", job, "--column", "prompt=c0").out
    assert "\ncolumns    c0 (read as prompt), seeds (read as seed)\n" in told


def test_options_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    create(tmp_path / "run", [file], *locate_model(load_job(None)))
    both = ask("resume", tmp_path / "run", "--local", "--site", ROOT / "slurm" / "example.toml")
    assert (both.code, "name one of them" in both.err) == (2, True)
    more = ask("resume", tmp_path / "run", "--add", 2, *settings(run__workers=3))
    assert (more.code, "give one of them" in more.err) == (2, True)
    one = ask("logs", tmp_path / "run", "--failed", "--worker", 3)
    assert (one.code, "leave --worker and --follow out" in one.err) == (2, True)
