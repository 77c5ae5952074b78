"""What the driver (here a script), the operating system and site profiles tell of the devices."""

import os
from pathlib import Path
from typing import Any

import pytest

from batchgen.errors import JobError
from batchgen.planning import hardware
from batchgen.planning.hardware import (
    GIB,
    MIB,
    Hardware,
    assumed,
    of_site,
    this_machine,
    visible_devices,
    worker_count,
)
from batchgen.settings.job import Job, parse_job
from batchgen.settings.site import Site
from tests.support.nvidia_driver import Driver

H100 = "GPU-aa, 81559, 9.0, NVIDIA H100 80GB HBM3"
A10 = "GPU-bb, 23028, 8.6, NVIDIA A10"


def job(**sections: Any) -> Job:
    return parse_job(sections, "a test")


def test_a_card_is_known_by_its_driver(driver: Driver) -> None:
    driver(H100)
    card = Hardware(True, "NVIDIA H100 80GB HBM3", 81559 * MIB, (9, 0), ("0",))
    assert this_machine(job()) == card


def test_test_cards_ask_no_driver(driver: Driver) -> None:
    driver(H100)
    assert this_machine(job(engine={"kind": "pattern"})) == Hardware()


def test_of_cards_that_differ_the_best_speaks_for_all(driver: Driver) -> None:
    driver(A10, H100)
    found = this_machine(job())
    assert (found.memory, found.capability, found.devices) == (81559 * MIB, (9, 0), ("0", "1"))


def test_a_card_named_by_its_id_is_the_only_one(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(A10, H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-bb")
    assert this_machine(job()) == Hardware(True, "NVIDIA A10", 23028 * MIB, (8, 6), ("GPU-bb",))


@pytest.mark.parametrize(
    "answer", ["GPU-aa, [N/A], [N/A], NVIDIA GB10", "Field is not a valid field to query.", ""]
)
def test_what_a_driver_does_not_say_is_not_known(
    driver: Driver, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    driver(answer)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    found = this_machine(job())
    assert (found.cuda, found.memory, found.capability) == (True, None, None)


def test_a_slice_of_a_card_has_memory_that_nobody_tells(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(H100)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    assert this_machine(job()).memory is None


@pytest.mark.usefixtures("no_driver")
def test_cards_of_a_container_without_nvidia_smi_are_counted_by_their_device_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No card: the driver's own files, and capabilities of slices.
    for name in ("nvidia3", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-caps", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(hardware, "_DEVICE_FILES", tmp_path)
    found = this_machine(job())
    assert (found.cuda, found.memory, found.devices) == (True, None, ("0", "1"))


SLICED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa)
  MIG 3g.20gb     Device  0: (UUID: MIG-11)
  MIG 1g.5gb      Device  1: (UUID: MIG-22)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bb)
"""


def test_the_slices_of_a_card_are_devices_and_the_card_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho '{SLICED}'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = this_machine(job())
    assert (found.devices, found.memory) == (("MIG-11", "MIG-22", "GPU-bb"), None)


@pytest.mark.usefixtures("no_driver")
def test_without_a_gpu_it_is_the_cpu_unless_a_plan_may_be_for_another_machine() -> None:
    cpu = this_machine(job())
    assert (cpu.cuda, cpu.devices) == (False, ())
    assert cpu.memory is not None
    assert 2**28 < cpu.memory <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert assumed(job()) == cpu, "the embedded model is made on any machine"
    assert assumed(job(model={"path": "org/large"})) == Hardware()
    assert assumed(job(model={"path": "org/large"}, engine={"device": "cpu"})) == cpu


@pytest.mark.parametrize(
    ("given", "why"), [(None, "nvidia-smi -L lists none.*"), ("", 'CUDA_VISIBLE_DEVICES is ""')]
)
@pytest.mark.usefixtures("no_driver")
def test_a_job_that_insists_on_a_gpu_is_refused_where_there_is_none(
    monkeypatch: pytest.MonkeyPatch, given: str | None, why: str
) -> None:
    if given is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    for asked in (this_machine, assumed, visible_devices):
        told = rf'"cuda": this machine has no GPU \({why}\)\. .*--set engine\.device=auto'
        with pytest.raises(JobError, match=told):
            asked(job(engine={"device": "cuda"}))
    rehearsal = job(engine={"device": "cuda", "kind": "pattern"})
    assert (this_machine(rehearsal), visible_devices(rehearsal)) == (Hardware(), ())


def test_a_gpu_that_this_pytorch_cannot_use_is_told_before_anything_starts(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(H100)
    asked = [job(engine={"device": "cuda"}), job(model={"path": "org/large"})]
    monkeypatch.setattr(hardware, "_pytorch", lambda: "2.13.0+cpu")
    for wanted in asked:
        device = wanted.engine.device
        with pytest.raises(JobError, match=rf'"{device}": .* 1 GPU, but PyTorch \S+ is built with'):
            this_machine(wanted)
    assert this_machine(job()).cuda is True, "the embedded model is made on any machine"
    monkeypatch.setattr(hardware, "_pytorch", lambda: "2.13.0+cu130")
    assert [this_machine(wanted).cuda for wanted in asked] == [True, True]


@pytest.mark.usefixtures("no_driver")
def test_a_container_has_what_it_is_limited_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "none").write_text("max\n")
    monkeypatch.setattr(
        hardware, "_LIMITS", (tmp_path / "missing", tmp_path / "none", tmp_path / "memory.max")
    )
    assert this_machine(job()).memory == 10**9


@pytest.mark.parametrize(
    ("workers", "cp", "devices", "expected"),
    [
        (1, 1, (), 1200),
        (3, 1, (), 400),
        (2, 3, (), 200),
        (2, 1, ("0", "1"), 1200),
        (3, 1, ("0", "1"), 600),
        (1, 2, ("0", "1"), 1200),
    ],
)
def test_ranks_share_the_devices_there_are(
    workers: int, cp: int, devices: tuple[str, ...], expected: int
) -> None:
    asked = job(run={"workers": workers}, parallel={"cp": cp})
    machine = Hardware(bool(devices), "", 1200, None, devices)
    assert machine.memory_of_rank(asked, shards=100) == expected


def test_both_halves_of_a_replica_have_devices_of_their_own() -> None:
    asked = job(run={"workers": "auto"}, parallel={"cp": 2, "cfg": 2})
    eight = tuple(map(str, range(8)))
    assert worker_count(asked, eight, shards=100) == 2
    assert Hardware(True, "", 1200, None, eight).memory_of_rank(asked, shards=100) == 1200


def test_no_more_workers_than_shards_share_them() -> None:
    machine = Hardware(False, "", 1200, None, ())
    assert machine.memory_of_rank(job(run={"workers": 8}), shards=2) == 600


def site(gpus: int, **given: Any) -> Site:
    return Site.model_validate({"gpus_per_node": gpus, "time": "1:00:00"} | given, strict=False)


def test_a_site_profile_tells_what_its_gpus_are() -> None:
    known = site(8, gpu_memory_gib=80, gpu_capability="9.0")
    nodes = of_site(known, job())
    assert nodes == Hardware(True, "a GPU of the site", 80 * GIB, (9, 0))
    # Each rank has a GPU of its own.
    assert nodes.memory_of_rank(job(run={"workers": 100}), shards=1000) == 80 * GIB
    assert of_site(site(8), job()) == Hardware(True, "a GPU of the site")
    assert of_site(site(0, workers_per_node=2), job()).cuda is False
    assert of_site(known, job(engine={"device": "cpu"})).cuda is False
