"""The benchmarks run, measure what they say, and tell what they could not measure."""

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.device import Device

FOLDER = Path(__file__).parents[1] / "benchmarks"

from benchmarks import gpu  # noqa: E402
from benchmarks.contenders import Skip  # noqa: E402
from benchmarks.gpu_rows import ROWS, make_scale, spread  # noqa: E402
from benchmarks.peer_caches import INSIDE_BLOCKS  # noqa: E402
from benchmarks.peer_report import Row, Way, at_equal_quality, at_floors, front, plot  # noqa: E402
from benchmarks.peers import plan, settings  # noqa: E402
from benchmarks.quality import GOALS, stretched  # noqa: E402
from benchmarks.quality import Row as QualityRow  # noqa: E402
from benchmarks.quality import settings as quality_settings  # noqa: E402
from benchmarks.random_flux import (  # noqa: E402
    MODULES,
    random_family,
    random_module,
    random_pipeline,
    write_configurations,
)

PARAMETERS = {
    "transformer": 11_901_408_320,
    "vae": 83_819_683,
    "text_encoder": 123_060_480,
    "text_encoder_2": 4_762_310_656,
}


def run(script: str, *words: str) -> str:
    command = [sys.executable, "-m", f"benchmarks.{script.removesuffix('.py')}", *words]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout


def lines(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def setting(
    who: str, cost: float, mean_db: float, worst_db: float | None = None, group: int = 8
) -> Row:
    """A setting that costs so many CPU seconds; its worst picture is 5 dB off the mean."""
    worst_db = mean_db - 5 if worst_db is None else worst_db
    way, skip = Way(who, group, compiled=False), Skip("cache", cost)
    return Row(way, skip, rates=[1 / cost], cpu_s=[cost], mean_db=mean_db, worst_db=worst_db)


def test_a_contender_s_best_settings_are_those_that_no_other_beats_in_quality_and_speed() -> None:
    best, quick = setting("batchgen", 0.5, 50.0), setting("batchgen", 0.25, 40.0)
    slower_and_worse = setting("batchgen", 1.0, 45.0)
    assert front([slower_and_worse, quick, best]) == [best, quick]


def test_peers_are_compared_at_no_worse_a_mean_and_worst_picture_in_groups_of_one_size() -> None:
    theirs = setting("cache-dit", 0.6, 45.0)
    ours = [
        setting("batchgen", 0.3, 46.0),
        setting("batchgen", 0.2, 46.0, worst_db=39.9),  # one picture is worse
        setting("batchgen", 0.1, 44.9),
        setting("batchgen", 0.05, 60.0, group=1),
    ]
    (line,) = at_equal_quality([theirs, *ours]).splitlines()[2:]
    assert line.endswith("| cache 0.3 | 46.0 / 41.0 | 0.3000 | 2.00 |")


def test_at_a_floor_the_quickest_settings_that_keep_it_are_compared_with_each_other() -> None:
    script = Row(Way("diffusers", 1, compiled=False), Skip(), rates=[1.0], cpu_s=[1.0])
    rows = [setting("diffusers", 0.9, 61.0), setting("cache-dit", 0.5, 45.0)]
    lines = at_floors([script, *rows, setting("batchgen", 0.25, 51.0)]).splitlines()
    at_44 = next(line for line in lines if line.startswith("| 44 / 40 |"))
    at_56 = next(line for line in lines if line.startswith("| 56 / 47 |"))
    assert at_44.endswith("| 2.00 | 4.00 |")
    assert at_56.endswith("| none is good enough | none is good enough |  |  |")


def test_the_plot_is_svg_and_names_every_contender() -> None:
    rows = [setting(who, 0.1, 50.0) for who in ("diffusers", "cache-dit", "batchgen")]
    drawn = ET.fromstring(plot([*rows, setting("batchgen", 0.2, 60.0)]))
    words = {element.text for element in drawn if element.tag.endswith("text")}
    assert words > {"diffusers", "cache-dit", "batchgen"}
    assert sum(element.tag.endswith("circle") for element in drawn) == 8  # a mean and a worst each


def test_what_is_tried_is_named_by_values_or_by_computed_steps() -> None:
    assert settings(["batchgen.multistep=0.01,0.02", "cache-dit.FoCa=0+9"]) == {
        "batchgen": [Skip("multistep", 0.01), Skip("multistep", 0.02)],
        "cache-dit": [Skip("FoCa", computed=(0, 9))],
    }
    with pytest.raises(SystemExit, match=r"expected WHO\.CACHE=VALUE"):
        settings(["multistep=0.01"])


def test_compiled_only_what_hooks_layers_inside_of_diffusers_blocks_is_left_out() -> None:
    tried = settings(["diffusers.TaylorSeer=3", "diffusers.MagCache=0.1", "cache-dit.TaylorSeer=1"])
    rows = plan(tried, [8], compiled=True)
    measured = [row for way, some in rows.items() if way.compiled for row in some]
    compiled = {(row.way.who, row.skip.how) for row in measured if row.skip.value}
    assert compiled == {("diffusers", "MagCache"), ("cache-dit", "TaylorSeer")}


def test_a_schedule_is_stretched_to_other_numbers_of_steps() -> None:
    assert stretched([0, 11, 19, 27], 28) == [0, 11, 19, 27]
    assert stretched([0, 11, 19, 27], 4) == [0, 1, 2, 3]
    names = [name for name, _ in quality_settings(["schedule=0+11+19+27,0+13+27"], 4)]
    assert names == ["none", "`schedule` [0 1 3]"]  # four of four steps are no schedule


def test_a_trace_skips_a_share_of_the_steps_and_computes_the_others_at_even_distances() -> None:
    assert spread(28, 0.75) == "0111" * 7
    assert spread(28, 0.5) == "01" * 14
    assert spread(4, 0.75) == "0111"


def test_full_size_is_flux_dev_to_the_parameter(tmp_path: Path) -> None:
    write_configurations(tmp_path / "model")
    nowhere = Device(torch.device("meta"), torch.bfloat16, "")
    modules = {
        name: random_module(tmp_path / "model", name, kind, nowhere)
        for name, kind in MODULES.items()
    }
    assert {
        name: sum(weight.numel() for weight in module.parameters())
        for name, module in modules.items()
    } == PARAMETERS
    assert {weight.dtype for module in modules.values() for weight in module.parameters()} == {
        torch.bfloat16
    }


def test_engine_and_pipeline_are_given_the_same_random_weights(tmp_path: Path) -> None:
    scale = make_scale(tmp_path, None, small=True)
    checkpoint = scale.checkpoint()
    job = scale.job(engine={"device": "cpu"})
    engine = build_engine(job, checkpoint, load=random_family)
    (picture,) = scale.to_paint(1, 4)
    pipeline = random_pipeline(checkpoint.folder, engine.device)
    stock = pipeline(
        picture.prompt,
        width=picture.width,
        height=picture.height,
        num_inference_steps=picture.steps,
        guidance_scale=picture.guidance,
        generator=torch.Generator().manual_seed(picture.seed),
        max_sequence_length=scale.text_tokens,
        output_type="latent",
    ).images
    ours = engine.denoise([picture]).latents
    assert ours.isfinite().all()
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, stock, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_quality_prints_a_row_a_setting_and_judges_the_goals() -> None:
    words = ["multistep=0.04", "first_block=0.3,0.5", "schedule=0+9+18+26"]
    printed = run("quality.py", "--pictures", "3", "--steps", "4", "28", "--try", *words)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("| ") and "computed" not in line
    ]
    few, many = rows[: len(rows) - 5], rows[-5:]
    assert [row[0] for row in few] == ["none", *(row[0] for row in many[1:4])]
    assert [row[0] for row in many] == [
        "none",
        "`multistep` 0.04",
        "`first_block` 0.3",
        "`first_block` 0.5",
        "`schedule` [0 9 18 26]",
    ]
    computed = [float(row[1]) for row in many]
    decibels = [float(row[2].split()[0]) for row in many[1:]]
    assert computed[0] == 28
    assert computed[2] >= computed[3]
    assert computed[4] == 4
    assert all(20 < value < 90 for value in decibels)
    goals = [line for line in printed.splitlines() if line.startswith("goal")]
    assert len(goals) == 3


def test_a_goal_is_met_by_its_own_policy_with_few_enough_steps() -> None:
    goal = next(goal for goal in GOALS if goal.policy == "multistep" and not goal.guided)
    good = QualityRow("multistep", 7.2, (59.0, 52.0), (1.0, 1.0), 1.0, 1.0, 1.0)
    assert good.meets(goal)
    assert not replace(good, computed=7.3).meets(goal)
    assert not replace(good, psnr_db=(59.0, 51.9)).meets(goal)
    assert not replace(good, policy="first_block").meets(goal)


@pytest.mark.slow
def test_a_report_is_measured_in_time_and_memory() -> None:
    printed = run("report_scale.py", "--pictures", "40", "--shard", "20")
    assert re.match(r"40 pictures in 2 shards: .* s of processors, 0\.\d\d GB at most, ", printed)


@pytest.mark.slow
def test_peers_measures_every_cache_of_everyone_who_is_there(tmp_path: Path) -> None:
    tried = ["diffusers.FirstBlockCache=0.4", "diffusers.MagCache=0.3", "diffusers.TaylorSeer=3"]
    tried += ["diffusers.TaylorSeer lite=3", "diffusers.FasterCache=2"]
    tried += ["diffusers.PyramidAttentionBroadcast=2", "batchgen.multistep=0.1"]
    tried += ["batchgen.first_block=0.4", "batchgen.schedule=0+3+6"]
    if importlib.util.find_spec("cache_dit"):
        tried += ["cache-dit.DBCache=0.4", "cache-dit.TaylorSeer=0+3+6", "cache-dit.FoCa=0.4"]
        tried += ["cache-dit.DMD=0.4"]
    file, drawing = tmp_path / "peers.jsonl", tmp_path / "plot.svg"
    words = ["--pictures", "2", "--steps", "8", "--rounds", "1", "--groups", "2", "--json"]
    printed = run("peers.py", *words, str(file), "--plot", str(drawing), "--try", *tried)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    cached = {f"{row['way']['who']}.{row['skip']['how']}": row for row in rows}
    assert set(cached) - {"diffusers.none", "batchgen.none"} == {
        words.partition("=")[0] for words in tried
    }
    assert all(row["rates"][0] > 0 and row["cpu_s"][0] > 0 for row in rows)
    # These compute all steps, and save attention alone.
    attention_alone = {f"diffusers.{how}" for how in INSIDE_BLOCKS}
    for name, row in cached.items():
        cache = not name.endswith(".none")
        assert (row["skipped"] > 0) == (cache and name not in attention_alone), row
        assert (row["mean_db"] < 90) == cache, row
    assert printed.count("| batchgen | 2 | eager |") == 4
    assert ET.parse(drawing).getroot().tag.endswith("svg")


@pytest.mark.slow
def test_speed_compares_with_the_script_as_a_job_array_would_run_it() -> None:
    words = ["--pictures", "16", "--rounds", "1", "--set", "engine.batch_size=2"]
    printed = run("speed.py", *words, "--set", "sampling.steps=4")
    rates = {
        cells[1].strip(): float(cells[2])
        for line in printed.splitlines()
        if len(cells := line.split("|")) == 7 and cells[1].strip().startswith(("script", "batch"))
    }
    assert set(rates) == {
        "script, a process a core",
        "script, one process",
        "batchgen, as the job says",
        "batchgen, with multistep",
    }
    assert all(rate > 0 for rate in rates.values())


NVIDIA_SMI = """#!/bin/sh
case "$*" in
    *lms*) while echo "1755, 612.5"; do sleep 0.05; done ;;
    *) echo "NVIDIA H200, 580.1, 1980, 3201, 700.00" ;;
esac
"""


def test_what_measures_the_rows_knows_them_all() -> None:
    assert [row.name for row in gpu.ROWS] == ["tests", *ROWS]


@pytest.mark.slow
def test_the_first_look_at_a_card_is_rehearsed_from_end_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At small size on a CPU, with a driver that is played: every row is a number or a reason."""
    there = tmp_path / "bin"
    there.mkdir()
    (there / "nvidia-smi").write_text(NVIDIA_SMI)
    (there / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{there}:{os.environ['PATH']}")
    file = tmp_path / "results" / "gpu.md"
    printed = run("gpu.py", "--small", "--out", str(file), "--commit", "abc123")
    rows = {line["row"]: line for line in lines(printed)}
    assert list(rows) == [row.name for row in gpu.ROWS]
    assert "passed" in rows["tests"]["said"] or "skipped" in rows["tests"]["said"]
    if importlib.util.find_spec("cache_dit") is None:
        assert "No module named 'cache_dit'" in rows.pop("cache-dit")["cannot"]
    measured = [line for line in rows.values() if line["row"] != "tests"]
    assert [line["skipped"] for line in measured[:5]] == [0, 0.75, 0.5, 0, 0], measured
    for line in measured:
        assert 0 < line["denoise_s"] < line["picture_s"]
        assert (line["mhz"], line["watts"]) == (1755, 612.5)
    assert rows["fp8-75"]["denoise_s"] < rows["fp8"]["denoise_s"]
    table = file.read_text()
    assert printed.endswith(f"\n{table}\n")
    assert "commit abc123, NVIDIA H200, driver 580.1, up to 1980 MHz (memory 3201)" in table
    assert table.count("\n| ") == 1 + len(measured)
    assert len(json.loads(file.with_suffix(".json").read_text())["rows"]) == len(gpu.ROWS)


def test_what_the_minutes_do_not_reach_is_told(tmp_path: Path) -> None:
    file = tmp_path / "gpu.md"
    printed = lines(run("gpu.py", "--minutes", "0.1", "--out", str(file)))
    assert len(printed) == len(gpu.ROWS)
    assert all("left out: " in line["cannot"] for line in printed)
    assert file.read_text().count("left out") == len(gpu.ROWS)


def test_a_row_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    process = gpu.Process(gpu.ROWS[1], tmp_path, ["--small"])
    assert "stopped after 0 s" in process.measure(0.1)["cannot"]
    assert process._process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_row_that_fails_is_told_with_the_reason(tmp_path: Path) -> None:
    words = ("--small", "--compile", "nonsense", "--only", "bf16", "--out", str(tmp_path / "a.md"))
    (row,) = lines(run("gpu.py", *words))
    assert "compile.mode" in row["cannot"]


@pytest.mark.slow
def test_a_mixed_manifest_is_planned_rehearsed_and_looked_at() -> None:
    """The rehearsal ends before its first group: exit status 3 says that pictures are left."""
    printed = run("plan_scale", "--mixed", "--rows", "2000", "--rehearse")
    told = dict(re.findall(r"^([a-z][a-z -]*): .* MB, exit status (\d)$", printed, re.MULTILINE))
    assert told == {"plan": "0", "submit --rehearse": "3", "status": "3", "verify": "0"}
    assert "2,000 rows, 2,000 pictures" in printed
    assert "512×512  4" in printed
    assert "0 ok, 0 failed, 2,000 pending of 2,000 pictures" in printed
