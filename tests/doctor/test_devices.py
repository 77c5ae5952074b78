"""Driver and cards are told; a driver or a library that hangs or crashes is a finding.

Real trials on this machine's own device are in test_trials.py.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.doctor import capabilities, cards, devices, driver
from batchgen.doctor.cards import Cards
from batchgen.doctor.finding import Finding
from batchgen.doctor.needs import Needs
from batchgen.settings import Site, load_job

Script = Callable[[str], None]
H100 = "580.65, NVIDIA H100 80GB HBM3, 81559, 9.0, {mig}"
LISTED = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-1)"
SLICE = "  MIG 3g.40gb     Device  0: (UUID: MIG-1)"


def needs(*settings: str, gpus: int | None = None) -> Needs:
    site = None if gpus is None else profile(gpus_per_node=gpus)
    return Needs(load_job(None, list(settings)) if settings else None, site)


def profile(**keys: Any) -> Site:
    return Site(**{"gpus_per_node": 8, "time": "30"} | keys)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Script:
    """Stands in the place of nvidia-smi, and does what a test wants."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr("batchgen.planning.hardware._DEVICE_FILES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    return write


def driver_of(rows: list[str], listing: list[str]) -> str:
    listed, told = "\n".join(listing), "\n".join(rows)
    return f"if [ \"$1\" = -L ]; then echo '{listed}'; else echo '{told}'; fi"


def test_a_machine_without_driver_computes_on_its_cpu(no_driver: None) -> None:
    assert driver.driver(needs()) == (
        Finding("driver", "", "ok", "no NVIDIA driver: this machine computes on its CPU"),
        0,
    )


def test_cards_of_one_kind_are_told_together(nvidia_smi: Script) -> None:
    row = H100.format(mig="Disabled")
    nvidia_smi(driver_of([row, row, "580.65, NVIDIA A10, 23028, 8.6, [N/A]"], [LISTED] * 3))
    told, count = driver.driver(needs())
    assert (told.state, count) == ("ok", 3)
    assert told.found == (
        "580.65: 2 × NVIDIA H100 80GB HBM3, 81559 MiB, compute capability 9.0; "
        "1 × NVIDIA A10, 23028 MiB, compute capability 8.6"
    )


def test_slices_are_told_and_a_card_that_should_have_some_fails(nvidia_smi: Script) -> None:
    nvidia_smi(driver_of([H100.format(mig="Enabled")], [LISTED, SLICE, SLICE]))
    assert driver.driver(needs())[0].found.endswith("9.0; MIG slices: 3g.40gb, 3g.40gb")
    nvidia_smi(driver_of([H100.format(mig="Enabled")], [LISTED]))
    told, _ = driver.driver(needs())
    assert told.state == "failed"
    assert told.found.endswith("; MIG is on and there is no slice")
    assert "nvidia-smi mig -cgi" in told.remedy


def test_a_driver_that_hangs_or_fails_is_told(
    nvidia_smi: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(driver, "LIMIT_S", 0.2)
    nvidia_smi("sleep 60")
    told, count = driver.driver(needs())
    assert (told.state, count) == ("failed", 1)
    assert told.found == "nvidia-smi did not end within 0.2 s; the kernel shows 1 card"
    monkeypatch.setattr(driver, "LIMIT_S", 10.0)
    nvidia_smi("echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    told, _ = driver.driver(needs())
    assert told.state == "failed"
    assert "exit code 18: Failed to initialize NVML: Driver/library version mismatch" in told.found


def seen(
    cards: int = 0, *, cuda: str | None = "13.0", why: str = "", free: float = 1.0
) -> dict[str, Any]:
    card = {"name": "NVIDIA H100", "total": 80e9, "free": free * 80e9, "capability": [9, 0]}
    return {"torch": "2.13.0", "cuda": cuda, "why": why, "cards": [card] * cards}


@pytest.mark.parametrize(
    ("answer", "asked", "present", "state", "told"),
    [
        (seen(2), needs(), 2, "ok", "computes on NVIDIA H100, 80.0 GB; NVIDIA H100, 80.0 GB"),
        (seen(cuda=None), needs(), 0, "ok", "built without CUDA; it computes on the CPU"),
        (seen(cuda=None), needs(), 2, "failed", "built without CUDA; the driver has 2 cards"),
        (seen(why="driver is too old"), needs(), 1, "failed", "sees no card: driver is too old; "),
        (seen(), needs("engine.device=cuda"), 0, "failed", "sees no card; the job needs 1 card"),
        (seen(1), needs("engine.device=cuda", "parallel.cp=2"), 1, "failed", "needs 2 cards"),
        (seen(1), needs(gpus=8), 1, "failed", "the site profile says gpus_per_node = 8"),
        (seen(), needs("engine.device=cpu", gpus=8), 0, "ok", "sees no card"),
    ],
)
def test_pytorch_has_to_see_the_cards_that_are_there_or_needed(
    answer: dict[str, Any],
    asked: Needs,
    present: int,
    state: str,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (found,) = cards._seen(answer, asked, present)
    assert (found.state, told in found.found) == (state, True), found
    assert bool(found.remedy) == (state == "failed")


def test_cards_that_are_hidden_on_purpose_fail_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (found,) = cards._seen(seen(), needs(), 2)
    assert (found.state, 'CUDA_VISIBLE_DEVICES is ""' in found.found) == ("ok", True)


def test_memory_that_others_hold_is_told() -> None:
    _, busy = cards._seen(seen(1, free=0.5), needs(), 1)
    assert (busy.name, busy.state) == ("free_cards", "warning")
    assert "card 0: 40.0 GB" in busy.found


@pytest.mark.parametrize(
    ("keys", "state"),
    [
        ({}, "ok"),
        ({"gpu_memory_gib": 80, "gpu_capability": "9.0"}, "ok"),
        ({"gpu_memory_gib": 141}, "warning"),
        ({"gpu_memory_gib": 40}, "warning"),
        ({"gpu_capability": "8.0"}, "warning"),
    ],
)
def test_a_profile_that_describes_another_card_is_told(keys: dict[str, Any], state: str) -> None:
    card = {"total": 79.2 * 2**30, "capability": [9, 0]}
    found = cards._profile(card, profile(**keys))
    assert found.state == state
    assert 'gpu_memory_gib = 79, gpu_capability = "9.0"' in found.found


TURING = Cards(1, "Tesla T4", (7, 5))


@pytest.mark.parametrize(
    ("name", "cards", "setting", "reason"),
    [
        ("fp8", TURING, 'precision.linear="fp8"', "FP8 products need 8.9 (Ada"),
        ("int8", Cards(1, "V100", (7, 0)), 'precision.linear="int8"', "int8 products need 7.5"),
        ("attention_cudnn", Cards(), "engine.attention=cudnn", "it needs a CUDA device"),
        ("attention_flash", TURING, "engine.attention=flash", "compute capability 8.0 (Ampere)"),
        ("attention_fa3", Cards(1, "A100", (8, 0)), "engine.attention=fa3", "needs a Hopper card"),
    ],
)
def test_what_a_device_lacks_is_told_and_fails_only_the_job_that_needs_it(
    name: str, cards: Cards, setting: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def untried(*_: object, **__: object) -> dict[str, Any]:
        return {"off": 0.0}

    monkeypatch.setattr(capabilities, "attempt", untried)  # the rules alone are asked here

    def judged(asked: Needs) -> Finding:
        found = [*capabilities._linears(cards, asked), *capabilities._attentions(cards, asked)]
        return {finding.name: finding for finding in found}[name]

    told, failed = judged(needs()), judged(needs(setting))
    assert (told.state, told.remedy) == ("ok", "")
    assert told.found.startswith("not available: ")
    assert f"Only matters for {setting.partition('=')[0]} = " in told.found
    assert (failed.state, reason in failed.found) == ("failed", True), failed
    assert failed.remedy.startswith("--set ")


def test_fp8_on_a_cpu_is_for_rehearsals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "attempt", lambda *_, **__: {"off": 0.037})
    for asked, state in (
        (needs(), "ok"),
        (needs("precision.linear=fp8"), "warning"),
        (needs("precision.linear=fp8", "engine.device=cuda"), "failed"),
    ):
        told, _ = capabilities._linears(Cards(), asked)
        assert told.state == state
        assert told.found.endswith("3.7% off the plain computation; slow on a CPU, for rehearsals")


@pytest.fixture
def dead_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A PyTorch that crashes its process, as a broken driver does."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("import os\nos.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


def test_a_pytorch_that_crashes_is_one_finding_and_ends_nothing(
    dead_torch: None, no_driver: None
) -> None:
    driver, torch = devices.devices(needs())
    assert (driver.state, torch.state) == ("ok", "failed")
    assert torch.found.endswith("nothing that needs it was tried: trying it ended in SIGSEGV")


def test_what_should_work_and_does_not_is_told_and_fails_the_job_that_needs_it(
    dead_torch: None,
) -> None:
    hopper = Cards(1, "NVIDIA H100", (9, 0))
    told, _ = capabilities._linears(hopper, needs())
    failed, _ = capabilities._linears(hopper, needs("precision.linear=fp8"))
    assert (told.state, failed.state) == ("warning", "failed")
    assert told.found == "NVIDIA H100 should have it; trying it ended in SIGSEGV"
    assert capabilities._ranks(Cards(), needs("parallel.cp=2")).found == (
        "two processes: trying it ended in SIGSEGV"
    )


def test_a_missing_compiler_fails_what_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = capabilities._compiler(Cards(), needs())
    failed = capabilities._compiler(Cards(), needs("compile.mode=default"))
    assert (told.state, failed.state) == ("ok", "failed")
    assert failed.found == "no no-such-compiler here"
    monkeypatch.setenv("CC", "no-such-compiler")
    assert capabilities._compiler(TURING, needs()).state == "failed", "on CUDA blocks are compiled"
