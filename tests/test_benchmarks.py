"""The benchmarks run, measure what they say, and tell what they could not measure."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.engine.device import Device

FOLDER = Path(__file__).parents[1] / "benchmarks"

from batchgen.calibration.fidelity import psnr, ssim  # noqa: E402
from benchmarks.gpu_sessions import SMALL, halved  # noqa: E402
from benchmarks.peers import Row, Skip, Way, at_equal_quality, interpolate  # noqa: E402
from benchmarks.random_flux import (  # noqa: E402
    MODULES,
    random_family,
    random_module,
    random_pipeline,
    write_configurations,
)

RANDOM = np.random.default_rng(0)
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


def grey(value: int) -> Any:
    return np.full((32, 32, 3), value, np.uint8)


def test_psnr_is_what_its_formula_says() -> None:
    assert psnr(grey(100), grey(110)) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(grey(100), grey(100)) == 99


def test_ssim_of_flat_pictures_compares_their_means_and_of_equal_ones_is_1() -> None:
    c1 = (0.01 * 255) ** 2
    assert ssim(grey(100), grey(200)) == pytest.approx(
        (2 * 100 * 200 + c1) / (100**2 + 200**2 + c1)
    )
    noise = RANDOM.integers(0, 256, (32, 40, 3), np.uint8)
    assert ssim(noise, noise) == pytest.approx(1)


def test_ssim_falls_with_noise_and_is_negative_for_a_negative() -> None:
    picture = RANDOM.integers(64, 192, (48, 48, 3), np.uint8)
    noisy = [
        np.clip(picture + RANDOM.normal(0, sigma, picture.shape), 0, 255).astype(np.uint8)
        for sigma in (2, 8, 32)
    ]
    assert 1 > ssim(picture, noisy[0]) > ssim(picture, noisy[1]) > ssim(picture, noisy[2])
    assert ssim(picture, 255 - picture) < -0.5


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


def test_a_trace_skips_half_of_the_steps_other_ones_for_every_picture_and_never_the_first() -> None:
    traces = [halved(key, 28) for key in range(20)]
    assert len(set(traces)) == 20
    assert {(trace[0], trace.count("1"), len(trace)) for trace in traces} == {("0", 14, 28)}
    assert traces == [halved(key, 28) for key in range(20)]


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
    checkpoint = write_configurations(tmp_path / "model", small=True)
    job = SMALL.job(engine={"device": "cpu"})
    engine = build_engine(job, checkpoint, load=random_family)
    (picture,) = SMALL.to_paint(1, 128, 4)
    pipeline = random_pipeline(checkpoint.folder, engine.device)
    stock = pipeline(
        picture.prompt,
        width=picture.width,
        height=picture.height,
        num_inference_steps=picture.steps,
        guidance_scale=picture.guidance,
        generator=torch.Generator().manual_seed(picture.seed),
        max_sequence_length=SMALL.text_tokens,
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


@pytest.mark.slow
def test_the_gpu_rows_are_measured_at_small_size_and_what_a_cpu_cannot_do_is_told(
    tmp_path: Path,
) -> None:
    file = tmp_path / "gpu.jsonl"
    sessions = ["ceilings", "fp8", "bf16", "stock", "groups", "large", "memory", "start"]
    sessions += ["cache-dit"] if importlib.util.find_spec("cache_dit") else []
    printed = run("gpu.py", "--small", "--json", str(file), "--only", *sessions)
    rows = lines(file.read_text())
    assert lines(printed) == rows
    assert {row["row"] for row in rows} >= {
        "1",
        "2",
        "3",
        "4",
        "5",
        "7",
        "8",
        "9",
        "10",
        "11",
        "12",
        "ceiling",
        "environment",
    }
    reasons = [row["cannot"] for row in rows if "cannot" in row]
    assert len(reasons) == 5  # two attention kernels, three ways to leave a device
    assert all(
        "CUDA device" in reason or "Hopper" in reason or "no device to leave" in reason
        for reason in reasons
    ), reasons
    measured = [row for row in rows if "picture_s" in row]
    assert {(row["row"], row["side_px"], row["group"]) for row in measured} >= {
        ("7", 128, 4),
        ("8", 64, 8),
        ("11", 256, 1),
    }
    assert all(
        row["picture_s"] > 0 and row["denoise_s"] > 0 and row["tflops"] > 0 for row in measured
    )
    assert {row["skipped"] for row in measured if row["row"] == "5" or "replay" in row["name"]} == {
        1 / 3
    }
    starts = [row for row in rows if row["row"] == "10"]
    assert all(0 < row["import_s"] < row["engine_s"] < row["first_picture_s"] for row in starts)


@pytest.mark.slow
def test_what_the_budget_does_not_reach_is_told() -> None:
    rows = lines(run("gpu.py", "--small", "--budget", "1", "--only", "fp8", "start"))[1:]
    assert [(row["row"], row["name"]) for row in rows] == [
        ("4", "fp8"),
        ("5", "fp8"),
        ("10", "start"),
    ]
    assert all("budget is spent" in row["cannot"] for row in rows)


@pytest.mark.slow
def test_a_row_whose_session_fails_is_told_with_the_reason() -> None:
    rows = lines(run("gpu.py", "--small", "--compile", "nonsense", "--only", "bf16"))[1:]
    assert [row["row"] for row in rows] == ["3"]
    assert "compile.mode" in rows[0]["cannot"]
