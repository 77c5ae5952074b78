"""What is known of the devices that will compute, asked without torch: of the driver, of the operating system, of the site profile.

What nobody says is None, and no job is refused for it. Where cards differ the best one speaks for all: others may be left out with
CUDA_VISIBLE_DEVICES, and a run is pinned to one kind of them anyway.
"""

from __future__ import annotations

import csv
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from batchgen.errors import JobError
from batchgen.settings import Job, Site

MIB, GIB = 2**20, 2**30
_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)  # a container's


@dataclass(frozen=True, slots=True)
class Hardware:
    """The devices of one machine, as far as they are known."""

    cuda: bool | None = None  # CUDA cards, or else the CPU; None: not known
    name: str = ""  # for people
    memory: int | None = None  # bytes of one device; the CPU is one
    capability: tuple[int, int] | None = None  # compute capability of the cards, (9, 0) for an H100
    devices: tuple[str, ...] | None = (
        None  # entries of CUDA_VISIBLE_DEVICES; () for the CPU; None: each rank has one of its own
    )

    def memory_of_rank(self, job: Job, shards: int) -> int | None:
        """Bytes that each rank of each worker may take: ranks share devices where there are more of them."""
        if self.memory is None or self.devices is None:
            return self.memory
        ranks = worker_count(job, self.devices, shards) * job.parallel.degree
        return self.memory // -(-ranks // max(1, len(self.devices)))


def this_machine(job: Job) -> Hardware:
    """The devices that workers on this machine would have; test cards need none."""
    if job.engine.kind == "pattern":
        return Hardware()
    devices = () if job.engine.device == "cpu" else given_devices()
    if devices:
        return _cards(devices)
    if job.engine.device == "cuda":  # a plan for another machine
        return Hardware(cuda=True)
    return Hardware(cuda=False, name="this machine's CPU", memory=_ram(), devices=())


def assumed(job: Job) -> Hardware:
    """The devices that a plan is judged by: where there is no GPU and the job names no device, it may be meant for another machine."""
    here = this_machine(job)
    return (
        Hardware()
        if here.cuda is False and job.engine.device == "auto" and job.model.path != "tiny"
        else here
    )


def of_site(site: Site, job: Job) -> Hardware:
    """The devices of a cluster's nodes, as its profile says."""
    if not site.gpus_per_node or job.engine.device == "cpu":
        return Hardware(cuda=False, name="a node's CPU")
    memory = None if site.gpu_memory_gib is None else round(site.gpu_memory_gib * GIB)
    return Hardware(
        cuda=True, name="a GPU of the site", memory=memory, capability=_version(site.gpu_capability)
    )


def visible_devices(job: Job) -> tuple[str, ...]:
    """The GPUs this process was given, as entries of CUDA_VISIBLE_DEVICES; () where there are none or the job wants none.

    :raises JobError: the job wants a GPU and there is none.
    """
    if job.engine.kind == "pattern" or job.engine.device == "cpu":
        return ()
    devices = given_devices()
    check_enough(job, devices)
    if job.engine.device == "cuda" and not devices:
        raise JobError(
            'engine.device = "cuda": this machine has no GPU (nvidia-smi -L and CUDA_VISIBLE_DEVICES were asked)'
        )
    return devices


def check_enough(job: Job, devices: tuple[str, ...]) -> None:
    """Whether every rank of a replica has a GPU, where there are GPUs.

    :raises JobError: it has not.
    """
    if 0 < len(devices) < job.parallel.degree:
        raise JobError(
            f"parallel.cp = {job.parallel.degree}: this machine has {len(devices)} GPUs; --set parallel.cp={len(devices)}"
        )


def given_devices() -> tuple[str, ...]:
    """The GPUs of this process, whether or not a job wants them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        named = (device.strip() for device in given.split(","))
        return tuple(
            takewhile(lambda device: device not in ("", "-1"), named)
        )  # as CUDA does: nothing behind an invalid one
    return tuple(
        str(number)
        for number, _ in enumerate(
            line for line in _ask_driver("-L").splitlines() if line.startswith("GPU ")
        )
    )


def worker_count(job: Job, devices: tuple[str, ...], shards: int) -> int:
    """Workers of a submission: as the job says, else one a GPU or one a CPU core, of each rank; never more than shards."""
    cores = len(os.sched_getaffinity(0))
    wanted = (
        (len(devices) or cores // job.engine.threads) // job.parallel.degree
        if job.run.workers == "auto"
        else job.run.workers
    )
    return max(1, min(wanted, shards))


def _cards(devices: tuple[str, ...]) -> Hardware:
    """What the driver says of these cards; of all, where they are named by numbers, for CUDA may count them in another order."""
    listing = _ask_driver(
        "--query-gpu=uuid,memory.total,compute_cap,name", "--format=csv,noheader,nounits"
    )
    cards = [
        row for row in csv.reader(listing.splitlines(), skipinitialspace=True) if len(row) == 4
    ]
    cards = [
        card for card in cards if any(card[0].startswith(device) for device in devices)
    ] or cards
    if not cards or any(
        device.startswith("MIG") for device in devices
    ):  # a slice of a card has a share of its memory
        return Hardware(cuda=True, name="this machine's GPU", devices=devices)
    memory = max((int(card[1]) * MIB for card in cards if card[1].isdigit()), default=None)
    capability = max((version for card in cards if (version := _version(card[2]))), default=None)
    return Hardware(True, cards[0][3], memory, capability, devices)


def _ask_driver(*words: str) -> str:
    try:
        return subprocess.run(
            ["nvidia-smi", *words], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):  # no driver: no GPU
        return ""


def _version(text: str | None) -> tuple[int, int] | None:
    """`9.0` as (9, 0)."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def _ram() -> int:
    """Bytes of this machine, or of this container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(path.read_text()))
    return min(limits)
