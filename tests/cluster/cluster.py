"""The test cluster, and runs on it, which tests disturb."""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from typing import Any

import pytest

from tests.protocol import recount
from tests.support.rehearsal import Answer, rehearse

SCRIPT = Path(__file__).parents[2] / "slurm" / "testcluster"
PROMPTS = [f"a cat {n}" for n in range(160)]
SHAPE = {
    "engine__batch_size": 4,
    "shards__pictures": 8,
    "sampling__width": 16,
    "sampling__height": 16,
}
NODES = 2
PROFILE: dict[str, object] = {
    "partition": "gpu",
    "nodes": NODES,
    "gpus_per_node": 2,
    "cpus_per_gpu": 1,
    "time": "30",
    "poll_s": 2.0,
}


def load_script() -> Any:
    """`slurm/testcluster` as a module."""
    loader = SourceFileLoader("testcluster", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


def write_profile(path: Path, **values: object) -> Path:
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in (PROFILE | values).items())
    path.write_text("".join(lines))
    return path


def until(true: Callable[[], object], what: str, patience_s: float = 120.0) -> float:
    """Wait until `true` says so; the seconds that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < patience_s, f"{what}: not within {patience_s:.0f} s"
        time.sleep(0.1)
    return time.monotonic() - began


@dataclass
class Cluster:
    """A running SLURM cluster of four nodes."""

    # The cluster of slurm/testcluster, and this script as a module.
    testcluster: Any
    script: Any

    def run(self, *command: str) -> str:
        done = self.testcluster.run(*command)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return str(done.stdout)

    def jobs(self) -> dict[str, str]:
        """Names and states of jobs that have not ended."""
        listing = self.run("squeue", "-h", "-r", "-o", "%i %T")
        return dict(line.split() for line in listing.splitlines())

    def processes(self, words: str) -> list[int]:
        """Processes of the cluster whose command line has these words."""
        found = []
        for pid in self.testcluster.processes():
            try:
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            if words in line:
                found.append(pid)
        return found

    def start_daemon(self, *command: str) -> None:
        self.testcluster.daemon(*command)

    def empty(self) -> None:
        """End all jobs and wait for four idle nodes."""
        self.testcluster.run("scancel", f"--user={os.getuid()}")
        until(lambda: not self.jobs(), "no job is left", 40)
        for node in self.script.NODES:
            self.testcluster.run("scontrol", "update", f"nodename={node}", "state=resume")
        until(lambda: self.testcluster.nodes() == ["idle"] * 4, "all nodes are idle", 40)


@dataclass
class ClusterRun:
    """A run of the pattern engine on the cluster."""

    cluster: Cluster
    root: Path
    profile: Path

    def submit(self, *words: str, prompts: list[str] = PROMPTS, **values: object) -> Answer:
        words = ("--site", str(self.profile), *words)
        faults = {"NOTE_GROUPS": str(self.notes)}
        settings = SHAPE | {"run__workers": '"auto"'} | values
        return rehearse(self.root, prompts, *words, faults=faults, **settings)

    @property
    def notes(self) -> Path:
        return self.root.with_name(f"{self.root.name}-groups")

    def members(self, worker: int) -> list[Path]:
        """The processes of a worker of the first submission, oldest first."""
        return sorted(self.root.glob(f".batchgen/jobs/0001/worker-{worker:03d}.*.json"))

    def owner(self, worker: int = 0) -> dict[str, Any]:
        """The last process of a worker."""
        told: dict[str, Any] = json.loads(self.members(worker)[-1].read_bytes())
        return told

    def element(self) -> str:
        """The name of element 0 of the array."""
        (array,) = json.loads((self.root / ".batchgen/jobs/0001/slurm.json").read_bytes())
        return f"{array}_0"

    def at_work(self, worker: int) -> bool:
        """Whether the first process of a worker has written a group."""
        return (self.root / f".batchgen/jobs/0001/worker-{worker:03d}.00.made").exists()

    def done(self) -> bool:
        return (self.root / "index.json").exists()

    def steals(self) -> list[float]:
        """When shards were taken over from another worker."""
        claims = [path for path in self.root.glob(".batchgen/claims/*/*") if path.suffix != ".free"]
        return sorted(path.stat().st_mtime for path in claims if path.suffix > ".0001")

    def lost_groups(self, pictures: int = len(PROMPTS)) -> int:
        """Groups that were begun again."""
        return len(self.notes.read_text().splitlines()) - pictures // 4

    def wrong(self, reference: dict[str, str], prompts: list[str] = PROMPTS) -> list[str]:
        """What is wrong with the finished run, compared with an undisturbed one."""
        wrong: list[str] = recount.wrong_at_end(self.root, prompts)
        paths = {row["path"] for row in recount.records(self.root)}
        wrong += [] if paths == {"normal"} else [f"pictures took other paths: {paths}"]
        return wrong + recount.wrong_in_view(self.root, reference)


NewRun = Callable[..., ClusterRun]


def kill(*pids: int) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def with_job(pids: list[int], job: str) -> Iterator[int]:
    """Those of the processes that belong to a job."""
    for pid in pids:
        if f"SLURM_JOB_ID={job}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            yield pid


def another_clock(folder: Path) -> str:
    """A Python whose clock is an hour late on two nodes and an hour early on the other two.

    Its timers and the times of its files are true.

    :return: "" if libfaketime is not installed.
    """
    if not (found := sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))):
        return ""
    python = folder / "python"
    variables = f"LD_PRELOAD={found[0]} FAKETIME=$off FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1"
    python.write_text(
        "#!/bin/sh\ncase $SLURMD_NODENAME in *[13]) off=-1h;; *) off=+1h;; esac\n"
        f'exec env {variables} {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    return str(python)


def require_slurm(*, accounting: bool) -> None:
    """Skip the test if SLURM is not installed; in CI, fail it."""
    if lacking := _missing(accounting=accounting):
        packages = "slurm-wlm munge mariadb-server-core slurmdbd"
        command = f"apt-get install --no-install-recommends {packages}"
        said = f"NOT TESTED ON SLURM, because {lacking} are not installed: {command}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)


def _missing(*, accounting: bool) -> str:
    """Programs that the cluster needs and that are not installed."""
    programs = ["slurmctld", "slurmd", "munged", "sbatch"]
    programs += ["slurmdbd", "mariadbd"] if accounting else []
    path = f"{os.environ['PATH']}:/usr/sbin"
    return " ".join(name for name in programs if not shutil.which(name, path=path))
