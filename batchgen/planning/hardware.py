"""What is known of the devices that will compute, asked without torch.

The driver, the operating system and the site profile are asked. What none of them tells is None,
and no job is refused for it. Where cards differ, the best one stands for all: the others may be
left out with CUDA_VISIBLE_DEVICES, and a run is pinned to one kind of card anyway.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from batchgen.errors import JobError, counted
from batchgen.settings import Job, Site

MIB, GIB = 2**20, 2**30
# Where the kernel shows devices.
_DEVICE_FILES = Path("/dev")
# Where a container finds the memory it is limited to: cgroup v2, then v1.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True, slots=True)
class Hardware:
    """The devices of one machine, as far as they are known."""

    # Whether they are CUDA cards; False: the CPU; None: not known.
    cuda: bool | None = None
    # For people.
    name: str = ""
    # Bytes of one device. The CPU is one device.
    memory: int | None = None
    # Compute capability of the cards, (9, 0) for an H100.
    capability: tuple[int, int] | None = None
    # Entries of CUDA_VISIBLE_DEVICES; () for the CPU; None: each rank has a device of its own.
    devices: tuple[str, ...] | None = None

    def memory_of_rank(self, job: Job, shards: int) -> int | None:
        """Bytes that each rank of each worker may take: ranks share devices if these are fewer."""
        if self.memory is None or self.devices is None:
            return self.memory
        ranks = worker_count(job, self.devices, shards) * job.parallel.degree
        return self.memory // -(-ranks // max(1, len(self.devices)))


UNKNOWN = Hardware()


def this_machine(job: Job) -> Hardware:
    """The devices that workers on this machine would have; test cards need none.

    :raises JobError: the job insists on a GPU, and there is none.
    """
    if job.engine.kind == "pattern":
        return UNKNOWN
    if devices := _wanted_devices(job):
        return _cards(devices)
    return Hardware(cuda=False, name="this machine's CPU", memory=host_memory(), devices=())


def assumed(job: Job) -> Hardware:
    """The devices that a plan is judged by.

    They are unknown where this machine has no GPU and the job names no device: the plan may be
    meant for another machine.

    :raises JobError: the job insists on a GPU, and there is none.
    """
    here = this_machine(job)
    elsewhere = job.engine.device == "auto" and job.model.path != "tiny"
    return UNKNOWN if here.cuda is False and elsewhere else here


def of_site(site: Site, job: Job) -> Hardware:
    """The devices of a cluster's nodes, as its profile describes them."""
    if not site.gpus_per_node or job.engine.device == "cpu":
        return Hardware(cuda=False, name="a node's CPU")
    memory = None if site.gpu_memory_gib is None else round(site.gpu_memory_gib * GIB)
    return Hardware(True, "a GPU of the site", memory, _version(site.gpu_capability))


def visible_devices(job: Job) -> tuple[str, ...]:
    """The GPUs of this process that the job wants, as entries of CUDA_VISIBLE_DEVICES.

    :raises JobError: the job wants more GPUs than there are.
    """
    devices = _wanted_devices(job)
    check_enough(job, devices)
    return devices


def _wanted_devices(job: Job) -> tuple[str, ...]:
    """The GPUs of this process that the job wants.

    :raises JobError: the job insists on a GPU, and there is none that can be used.
    """
    if job.engine.kind == "pattern" or job.engine.device == "cpu":
        return ()
    devices = given_devices()
    if job.engine.device == "cuda":
        _check_given(devices)
    # The embedded model is quick enough on a CPU; any other is meant for the cards that are there.
    if job.engine.device == "cuda" or (devices and job.model.path != "tiny"):
        _check_build(job.engine.device, devices)
    return devices


def _check_given(devices: tuple[str, ...]) -> None:
    asked, given = 'engine.device = "cuda"', os.environ.get("CUDA_VISIBLE_DEVICES")
    if not devices:
        why = (
            "nvidia-smi -L lists none, and there is no /dev/nvidia0"
            if given is None
            else f'CUDA_VISIBLE_DEVICES is "{given}"'
        )
        raise JobError(
            f"{asked}: this machine has no GPU ({why}). For the GPUs of a cluster name its profile "
            "with --site; --set engine.device=auto takes a GPU where there is one, and "
            "engine.device=cpu none"
        )


def _check_build(asked: str, devices: tuple[str, ...]) -> None:
    if (version := _pytorch()).endswith("+cpu"):
        raise JobError(
            f'engine.device = "{asked}": this machine has {counted(len(devices), "GPU")}, but '
            f"PyTorch {version} is built without CUDA and would leave them idle. Install a build "
            "with CUDA (https://pytorch.org/get-started/locally), or --set engine.device=cpu"
        )


def _pytorch() -> str:
    """Its version; how it was built stands behind a plus sign."""
    return importlib.metadata.version("torch")


def check_enough(job: Job, devices: tuple[str, ...]) -> None:
    """Check that every rank of a replica has a GPU, where there are GPUs.

    :raises JobError: it has not.
    """
    if 0 < (found := len(devices)) < job.parallel.degree:
        parallel = job.parallel
        halves = min(found, parallel.halves)
        fewer = f"--set parallel.cp={found // halves}"
        if halves < parallel.halves:
            fewer += f" --set parallel.cfg={halves}"
        raise JobError(f"{parallel.spelled}: this machine has {counted(found, 'GPU')}; {fewer}")


def given_devices() -> tuple[str, ...]:
    """The GPUs of this process, whether or not a job wants them, as CUDA_VISIBLE_DEVICES has them.

    Those of a machine are numbers; but slices of cards (MIG) have only names, and where there are
    some, whole cards beside them are named too.
    """
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        found = _listed(_ask_driver("-L"))
        sliced = any(device.startswith("MIG") for device in found)
        return found if sliced else tuple(map(str, range(len(found) or device_files())))
    named = (device.strip() for device in given.split(","))
    # CUDA ignores an invalid entry and all entries behind it.
    return tuple(takewhile(lambda device: device not in ("", "-1"), named))


def _listed(listing: str) -> tuple[str, ...]:
    """Names of what `nvidia-smi -L` lists: cards, but of a card that is sliced its slices.

    Slices stand indented below their card (https://docs.nvidia.com/datacenter/tesla/mig-user-guide).
    """
    cards: list[list[str]] = []
    for line in listing.splitlines():
        name = line.partition("(UUID: ")[2].rstrip(") ")
        if line.startswith("GPU "):
            cards.append([name])
        elif line.lstrip().startswith("MIG ") and cards:
            cards[-1].append(name)
    return tuple(name for card in cards for name in card[1:] or card)


def device_files() -> int:
    """How many cards the kernel shows this process, as /dev/nvidia0 and so on.

    Containers may have the driver without nvidia-smi, and these files for their own cards alone.
    """
    return sum(path.name[6:].isdigit() for path in _DEVICE_FILES.glob("nvidia*"))


def worker_count(job: Job, devices: tuple[str, ...], shards: int) -> int:
    """How many workers a submission starts: `run.workers`, but no more than there are shards.

    "auto" is as many as have a GPU for each of their ranks; without GPUs, cores for its threads.
    """
    wanted = job.run.workers
    if wanted == "auto":
        places = len(devices) or len(os.sched_getaffinity(0)) // job.engine.threads
        wanted = places // job.parallel.degree
    return max(1, min(wanted, shards))


def _cards(devices: tuple[str, ...]) -> Hardware:
    """What the driver tells of the cards.

    Cards that are named by numbers cannot be told apart, because CUDA may count them in another
    order than the driver: then all cards of the machine count.
    """
    query = "--query-gpu=uuid,memory.total,compute_cap,name"
    listing = _ask_driver(query, "--format=csv,noheader,nounits")
    rows = csv.reader(listing.splitlines(), skipinitialspace=True)
    cards = [row for row in rows if len(row) == 4]
    cards = [card for card in cards if card[0].startswith(devices)] or cards
    # A slice of a card (MIG) has a share of the card's memory that the driver does not tell.
    if not cards or any(device.startswith("MIG") for device in devices):
        return Hardware(cuda=True, name="this machine's GPU", devices=devices)
    memory = max((int(card[1]) * MIB for card in cards if card[1].isdigit()), default=None)
    capability = max((version for card in cards if (version := _version(card[2]))), default=None)
    return Hardware(True, cards[0][3], memory, capability, devices)


def _ask_driver(*words: str) -> str:
    command = ["nvidia-smi", *words]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):  # no driver: no GPU
        return ""


def _version(text: str | None) -> tuple[int, int] | None:
    """`9.0` as (9, 0)."""
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else None


def host_memory() -> int:
    """Bytes of this machine, or of this container."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        with suppress(OSError, ValueError):  # the file is missing, or it says "max"
            limits.append(int(path.read_text()))
    return min(limits)
