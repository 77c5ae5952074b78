"""What SLURM says, and the job this process is in. No submitit, and no accounting: squeue alone is asked.

squeue may fail, lag, or leave jobs out while its controller restarts. So a job counts as gone only when several good listings, some
time apart, lack it; a listing that lacks the job of the process that asks is not a good one. A job with a higher restart count, on
the other hand, says by itself that the incarnation before is over. All else is unknown.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from batchgen.errors import SchedulerSilent, SiteError
from batchgen.process import Life

POLL_S = 60.0  # least seconds between two listings, plus up to half as much again
FAILURES = 3  # bad listings in a row, after which waiting for a good one has no end in sight
ANSWER_S = 60.0  # a command that takes longer counts as failed
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ENDED = {"COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED"}
_FIELDS = (("JobID", 24), ("ArrayJobID", 24), ("ArrayTaskID", 24), ("State", 24), ("RestartCnt", 12), ("Reason", 80), ("Comment", 240))
_KEPT = {"SLURM_CONF", "SLURM_CLUSTERS"}  # say which cluster is meant; all other SLURM_* describe the job we may be in


@dataclass(frozen=True, slots=True)
class Job:
    """A line of squeue: one element of an array, or a job without one."""

    id: str  # its own; all elements that have not started share their array's
    name: str  # as people type it: 4711_3
    state: str
    restarts: int
    reason: str  # why it waits
    comment: str

    @property
    def waits(self) -> bool:
        """Whether it has no allocation now."""
        return self.state in WAITING


@dataclass(frozen=True, slots=True)
class Remembered:
    """What SLURM remembers of a job."""

    state: str
    reason: str
    node: str


def label(run: str) -> str:
    """How the jobs of a run are known: their comment begins so."""
    return f"batchgen:{run}"


def node() -> str:
    """This machine's name: SLURM's, inside a job, else the host's."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def job_id() -> str:
    """The job this process runs in; "" outside of SLURM. Every element of an array has its own."""
    return os.environ.get("SLURM_JOB_ID", "") if "SLURMD_NODENAME" in os.environ else ""


def restarts() -> int:
    """How often this job was requeued before."""
    return int(os.environ.get("SLURM_RESTART_COUNT") or 0) if job_id() else 0


def end_time(now: float) -> float | None:
    """When this job's time is over, in seconds since the epoch by this machine's clock; None where nobody says.

    SLURM's two times are of the controller's clock. Where `now` does not lie between them, clocks differ: the job is taken to begin now.
    """
    try:
        start, end = float(os.environ["SLURM_JOB_START_TIME"]), float(os.environ["SLURM_JOB_END_TIME"])
    except (KeyError, ValueError):
        return None
    return end if start - 60 <= now <= end else now + end - start


def devices() -> list[str]:
    """The GPUs this task was given; several tasks of a node may be given the same list."""
    return [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]


def call(*command: str, text: str | None = None) -> str:
    """The output of one of SLURM's commands.

    :raises SchedulerSilent: it is not there, fails, or takes too long.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SQUEUE_", "SCANCEL_"))}
    try:
        done = subprocess.run(command, env=environment, input=text, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except FileNotFoundError:
        raise SchedulerSilent(f"{command[0]}: not found. Type this on a machine of the cluster's, where SLURM's commands are.") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerSilent(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SchedulerSilent(f"{command[0]} failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
    return done.stdout + (done.stderr if command[0] == "sbatch" else "")


def list_jobs() -> list[Job]:
    """This user's jobs that have not ended.

    :raises SchedulerSilent: squeue cannot be asked, or says what cannot be read.
    """
    layout = ",".join(f"{name}:{width}" for name, width in _FIELDS)
    told = call("squeue", "--noheader", "--all", "--array", f"--user={os.getuid()}", f"--Format={layout}")
    return [_parse(line) for line in told.splitlines() if line.strip()]


def _parse(line: str) -> Job:
    parts, at = [], 0
    for _, width in _FIELDS:
        parts.append(line[at : at + width].strip())
        at += width
    job, array, element, state, restarts, reason, comment = parts
    if not job.isdigit() or not restarts.isdigit() or not state.isupper():
        raise SchedulerSilent(f"squeue says what cannot be read: {line.strip()!r}")
    return Job(job, f"{array}_{element}" if element.isdigit() else job, state, int(restarts), reason, comment)


def last_state(job: str) -> Remembered:
    """A job that SLURM has not forgotten yet; when it is over, that takes some minutes.

    :raises SchedulerSilent: it has, or cannot be asked.
    """
    told = call("scontrol", "--oneliner", "show", "job", job)
    state, reason, node = (re.search(rf"\b{name}=(\S+)", told) for name in ("JobState", "Reason", "NodeList"))
    if not (state and reason):
        raise SchedulerSilent(f"scontrol says what cannot be read: {told.strip()[:80]!r}")
    return Remembered(state[1], reason[1], node[1] if node else "")


class Queue:
    """Asks squeue now and then, and remembers who was missing in how many good listings.

    :param poll_s: least seconds between two listings.
    :param enough: good listings a job must be missing in to count as gone.
    """

    def __init__(self, poll_s: float = POLL_S, *, enough: int = 2) -> None:
        self._poll_s, self._enough = poll_s, enough
        self._jobs: list[Job] = []
        self._by_id: dict[str, Job] = {}
        self._missing: dict[tuple[str, int], int] = {}
        self._failures = 0
        spread = random.uniform(0, poll_s / 10) if job_id() else 0.0  # noqa: S311 - all workers run out of work in the same moment
        self._next = time.monotonic() + spread
        self.trouble = ""  # why the last listing was not a good one

    def jobs(self) -> list[Job]:
        """All jobs of the last good listing."""
        self._look()
        return list(self._jobs)

    @property
    def due(self) -> bool:
        """Whether the next question makes a new listing."""
        return time.monotonic() >= self._next

    def notice(self, job: str, restarts: int) -> None:
        """An incarnation of a job exists: listings from now on should have it."""
        self._missing.setdefault((job, restarts), 0)

    def life(self, job: str, restarts: int) -> Life:
        """Whether an incarnation of a job lives."""
        self.notice(job, restarts)
        self._look()
        found = self._by_id.get(job)
        if (found and found.restarts > restarts) or self._missing[job, restarts] >= self._enough:
            return "dead"
        return "unknown" if found is None or found.waits else "alive"  # it waits, and was not requeued: the listing is older than it

    def wait_s(self) -> float | None:
        """Seconds until another listing may settle what is unknown; None where nothing is, or squeue has been silent for long."""
        unsettled = any(self.life(*incarnation) == "unknown" for incarnation in list(self._missing))
        return max(self._next - time.monotonic(), 0.0) if unsettled and self._failures < FAILURES else None

    def _look(self) -> None:
        if not self.due:
            return
        self._next = time.monotonic() + self._poll_s * random.uniform(1.0, 1.5)  # noqa: S311
        try:
            self._jobs = self._good_listing()
            self._by_id = {job.id: job for job in self._jobs}
        except SchedulerSilent as silent:
            self.trouble, self._failures = str(silent), self._failures + 1 if shutil.which("squeue") else FAILURES
            return
        self.trouble, self._failures = "", 0
        for job, restarts in self._missing:
            found = self._by_id.get(job)
            self._missing[job, restarts] = self._missing[job, restarts] + 1 if found is None or found.waits else 0

    def _good_listing(self) -> list[Job]:
        jobs = [job for job in list_jobs() if job.state not in ENDED]
        if (mine := job_id()) and mine not in {job.id for job in jobs}:
            raise SchedulerSilent(f"squeue does not list job {mine}, which asks")
        return jobs


def cancel(jobs: Sequence[Job], *, waiting_only: bool) -> None:
    """Cancel jobs; those that have just started are left alone where only waiting ones are meant.

    :raises SchedulerSilent: scancel fails.
    """
    names = [job.name for job in jobs if job.waits or not waiting_only]
    if names:
        call("scancel", *(["--state=PENDING"] if waiting_only else []), *names)


def max_array_size() -> int:
    """How many elements an array may have.

    :raises SchedulerSilent: scontrol cannot be asked.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE)
    return int(match[1]) if match else 1001  # SLURM's own default


def test_only(script: str) -> str:
    """What SLURM thinks of a batch script.

    :raises SiteError: it would refuse it.
    :raises SchedulerSilent: there is no sbatch here.
    """
    try:
        return call("sbatch", "--test-only", text=script).strip().removeprefix("sbatch: ")
    except SchedulerSilent as silent:
        if "not found" in str(silent):
            raise
        raise SiteError(f"SLURM would refuse it: {silent}") from None


@contextmanager
def outside_of_a_job(options: Sequence[str] = ()) -> Iterator[None]:
    """An environment in which a new job inherits nothing of the one this process may be in.

    :param options: of sbatch, which its SBATCH_* variables would override.
    """
    overridden = {f"SBATCH_{name.upper().replace('-', '_')}" for name in options}
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if (name.startswith(("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")) and name not in _KEPT) or name in overridden
    }
    try:
        yield
    finally:
        os.environ.update(hidden)
