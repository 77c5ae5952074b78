"""The benchmarks run, measure what they say, and tell what they could not measure."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.device import Device

FOLDER = Path(__file__).parents[1] / "benchmarks"

from benchmarks import gpu  # noqa: E402
from benchmarks.gpu_rows import ROWS, make_scale, spread  # noqa: E402
from benchmarks.peers import Row, Skip, Way, at_equal_quality, interpolate  # noqa: E402
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


def test_speed_at_equal_quality_lies_on_the_line_along_the_best_settings() -> None:
    points = [(50.0, 2.0), (40.0, 4.0), (45.0, 1.0)]  # the last is slower than the first and worse
    assert interpolate(points, 45.0) == pytest.approx(3.0)
    assert interpolate(points, 39.0) == 4.0
    assert interpolate(points, 51.0) is None


def test_peers_are_compared_in_groups_of_one_size_only() -> None:
    theirs = Row(Way("cache-dit", 8, compiled=False), Skip(0.3), rates=[2.0], mean_db=45.0)
    ours = [
        Row(Way("batchgen", group, compiled=False), Skip(0.3), rates=[3.0 * group], mean_db=45.0)
        for group in (1, 8)
    ]
    assert "| 24.00 | 12.00 |" in at_equal_quality([theirs, *ours])


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
def test_quality_prints_a_row_a_setting_and_judges_the_target() -> None:
    printed = run(
        "quality.py",
        "--pictures",
        "3",
        "--steps",
        "6",
        "--tolerances",
        "0.01",
        "--thresholds",
        "0.3",
        "0.5",
        "--orders",
        "1",
    )
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in printed.splitlines()
        if line.startswith("|")
    ][2:]
    assert [row[:2] for row in rows] == [
        ["none", ""],
        ["`multistep` 0.01", ""],
        ["`first_block` 0.3", "1"],
        ["`first_block` 0.5", "1"],
    ]
    assert rows[0][2] == "0.0%"
    skipped, decibels = [
        [float(row[cell].split()[0].rstrip("%")) for row in rows[2:]] for cell in (2, 3)
    ]
    assert 0 < skipped[0] <= skipped[1]
    assert 20 < decibels[1] <= decibels[0] < 90
    assert printed.splitlines()[-1].startswith("target")


@pytest.mark.slow
def test_peers_measures_every_setting_of_everyone_who_is_there(tmp_path: Path) -> None:
    there = [
        "diffusers",
        "batchgen",
        *(["cache-dit"] if importlib.util.find_spec("cache_dit") else []),
    ]
    file = tmp_path / "peers.jsonl"
    words = [
        "--pictures",
        "2",
        "--steps",
        "4",
        "--rounds",
        "1",
        "--groups",
        "2",
        "--thresholds",
        "0.3",
        "--taylor",
        "0.4",
    ]
    printed = run("peers.py", *words, "--json", str(file), "--only", *there)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["way"]["who"] for row in rows} == set(there)
    assert all(row["rates"][0] > 0 and row["mean_db"] >= row["worst_db"] > 20 for row in rows)
    cached = [row for row in rows if row["skip"]["threshold"]]
    assert {(row["way"]["who"], row["skip"]["taylor"]) for row in cached} == {
        (who, n) for who in there for n in (0, 1)
    } - {("diffusers", 1)}
    assert all(row["skipped"] > 0 for row in cached)
    assert all(row["skipped"] == 0 and row["mean_db"] > 90 for row in rows if row not in cached)
    assert printed.count("| batchgen | 2 | eager |") == sum(
        row["way"]["who"] == "batchgen" for row in rows
    )


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
