"""What SLURM says, and the job this process is in. No submitit, and no accounting: squeue alone is asked.

squeue may fail, lag, or leave jobs out while its controller restarts. So a job counts as gone only when several good listings, some
time apart, lack it; a listing that lacks the job of the process that asks is not a good one. A job with a higher restart count, on
the other hand, says by itself that the incarnation before is over. All else is unknown.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.errors import SchedulerSilent, SiteError

ANSWER_S = 60.0  # a command that takes longer counts as failed
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
ENDED = {
    "COMPLETED",
    "CANCELLED",
    "FAILED",
    "TIMEOUT",
    "NODE_FAIL",
    "PREEMPTED",
    "BOOT_FAIL",
    "DEADLINE",
    "OUT_OF_MEMORY",
    "REVOKED",
}
_FIELDS = (
    ("JobID", 24),
    ("ArrayJobID", 24),
    ("ArrayTaskID", 24),
    ("State", 24),
    ("RestartCnt", 12),
    ("Reason", 80),
    ("Comment", 240),
)


@dataclass(frozen=True, slots=True)
class QueuedJob:
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


def call(*command: str, text: str | None = None) -> str:
    """The output of one of SLURM's commands.

    :raises SchedulerSilent: it is not there, fails, or takes too long.
    """
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SQUEUE_", "SCANCEL_"))
    }
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError:
        raise SchedulerSilent(
            f"{command[0]}: not found. Type this on a machine of the cluster's, where SLURM's commands are."
        ) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerSilent(f"{command[0]}: {error}") from None
    if done.returncode:
        raise SchedulerSilent(
            f"{command[0]} failed: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}"
        )
    return done.stdout + (done.stderr if command[0] == "sbatch" else "")


def list_jobs() -> list[QueuedJob]:
    """This user's jobs that have not ended.

    :raises SchedulerSilent: squeue cannot be asked, or says what cannot be read.
    """
    layout = ",".join(f"{name}:{width}" for name, width in _FIELDS)
    told = call(
        "squeue", "--noheader", "--all", "--array", f"--user={os.getuid()}", f"--Format={layout}"
    )
    return [_parse(line) for line in told.splitlines() if line.strip()]


def _parse(line: str) -> QueuedJob:
    parts, at = [], 0
    for _, width in _FIELDS:
        parts.append(line[at : at + width].strip())
        at += width
    job, array, element, state, restarts, reason, comment = parts
    if not job.isdigit() or not restarts.isdigit() or not state.isupper():
        raise SchedulerSilent(f"squeue says what cannot be read: {line.strip()!r}")
    return QueuedJob(
        job,
        f"{array}_{element}" if element.isdigit() else job,
        state,
        int(restarts),
        reason,
        comment,
    )


def last_state(job: str) -> Remembered:
    """A job that SLURM has not forgotten yet; when it is over, that takes some minutes.

    :raises SchedulerSilent: it has, or cannot be asked.
    """
    told = call("scontrol", "--oneliner", "show", "job", job)
    state, reason, node = (
        re.search(rf"\b{name}=(\S+)", told) for name in ("JobState", "Reason", "NodeList")
    )
    if not (state and reason):
        raise SchedulerSilent(f"scontrol says what cannot be read: {told.strip()[:80]!r}")
    return Remembered(state[1], reason[1], node[1] if node else "")


def cancel(jobs: Sequence[QueuedJob], *, waiting_only: bool) -> None:
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
    match = re.search(
        r"^MaxArraySize\s*=\s*(\d+)", call("scontrol", "show", "config"), re.MULTILINE
    )
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
