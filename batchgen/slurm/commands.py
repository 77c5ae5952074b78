"""SLURM's commands: squeue, scontrol, scancel and sbatch --test-only.

Every function raises `SchedulerSilent` where a command is missing, fails, takes longer than
`ANSWER_S`, or prints what cannot be read.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from batchgen.errors import SchedulerSilent, SiteError
from batchgen.slurm.environment import outside_of_a_job

ANSWER_S = 60.0
# States of a job that has no allocation now.
WAITING = {"PENDING", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESV_DEL_HOLD"}
# States of a job that is over.
ENDED = {
    *("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL"),
    *("PREEMPTED", "BOOT_FAIL", "DEADLINE", "OUT_OF_MEMORY", "REVOKED"),
}
# Columns of squeue and their widths in characters.
_COLUMNS = {
    "JobID": 24,
    "ArrayJobID": 24,
    "ArrayTaskID": 24,
    "State": 24,
    "RestartCnt": 12,
    "Reason": 80,
    "Comment": 240,
}


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A line of squeue: one element of an array, or a job without an array."""

    # Elements of an array that have not started share the id of their array.
    id: str
    # The name that people type: 4711_3 for an element.
    name: str
    state: str
    restarts: int
    # Why the job waits.
    reason: str
    comment: str

    @property
    def waits(self) -> bool:
        """Whether the job has no allocation now."""
        return self.state in WAITING


@dataclass(frozen=True, slots=True)
class Remembered(QueuedJob):
    """What the controller knows of a job, for some minutes after its end too.

    The elements of an array that have not started are one such job.
    """

    # "" before the job starts.
    node: str
    # The id of its array; its own if there is none.
    array: str


def call(*command: str, text: str | None = None) -> str:
    """The output of a command. Variables that set options for squeue and scancel are hidden."""
    options = ("SQUEUE_", "SCANCEL_")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(options)}
    name = command[0]
    try:
        done = subprocess.run(
            command,
            env=environment,
            input=text,
            capture_output=True,
            encoding="utf-8",
            errors="backslashreplace",
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError:
        remedy = "Type this on a machine of the cluster, where SLURM's commands are."
        raise SchedulerSilent(f"{name}: not found. {remedy}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SchedulerSilent(f"{name}: {error}") from None
    if done.returncode:
        reason = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise SchedulerSilent(f"{name} failed: {reason}")
    # sbatch --test-only answers on stderr.
    return done.stdout + (done.stderr if name == "sbatch" else "")


def list_jobs() -> list[QueuedJob]:
    """This user's jobs in squeue."""
    layout = ",".join(f"{name}:{width}" for name, width in _COLUMNS.items())
    who = ("--all", "--array", f"--user={os.getuid()}")
    listing = call("squeue", "--noheader", *who, f"--Format={layout}")
    return [_parse(line) for line in listing.splitlines() if line.strip()]


def _parse(line: str) -> QueuedJob:
    edges = pairwise(accumulate(_COLUMNS.values(), initial=0))
    job, array, element, state, restarts, *rest = (line[a:b].strip() for a, b in edges)
    if not job.isdigit() or not restarts.isdigit() or not state.isupper():
        raise _unreadable("squeue", line)
    name = f"{array}_{element}" if element.isdigit() else job
    return QueuedJob(job, name, state, int(restarts), *rest)


def remembered(job: str) -> list[Remembered]:
    """What the controller knows of a job, or of all elements of an array; none if it forgot them.

    The controller's own answer proves more than a listing of squeue that lacks the job.
    """
    try:
        answer = call("scontrol", "--oneliner", "show", "job", job)
    except SchedulerSilent as silent:
        if "Invalid job id" in str(silent):
            return []
        raise
    return [_parse_record(line) for line in answer.splitlines() if line.strip()]


def _parse_record(line: str) -> Remembered:
    told = dict(re.findall(r"(?:^| )(\w+)=(\S*)", line.partition(" Comment=")[0]))
    try:
        job, state, reason, restarts = (
            told[name] for name in ("JobId", "JobState", "Reason", "Restarts")
        )
        array, element = told.get("ArrayJobId", job), told.get("ArrayTaskId", "")
        name = f"{array}_{element}" if element.isdigit() else job
        comment = line.partition(" Comment=")[2]
        node = told.get("NodeList", "")
        return Remembered(job, name, state, int(restarts), reason, comment, node, array)
    except (KeyError, ValueError):
        raise _unreadable("scontrol", line) from None


def _unreadable(command: str, line: str) -> SchedulerSilent:
    return SchedulerSilent(f"{command} printed a line that cannot be read: {line.strip()[:80]!r}")


def cancel(jobs: Sequence[QueuedJob], *, waiting_only: bool) -> None:
    """Cancel jobs.

    :param waiting_only: leave jobs alone that have an allocation, also if it is newer than the
        listing.
    """
    names = [job.name for job in jobs if job.waits or not waiting_only]
    if names:
        call("scancel", *(["--state=PENDING"] if waiting_only else []), *names)


def max_array_size() -> int:
    """How many elements an array may have."""
    config = call("scontrol", "show", "config")
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE)
    return int(match[1]) if match else 1001  # SLURM's own default


def ping() -> str:
    """What the controllers say of themselves, in a line."""
    return "; ".join(call("scontrol", "ping").split("\n")).strip("; ")


def accounting() -> str:
    """How the cluster keeps its accounts; "" if it keeps none."""
    match = re.search(
        r"^AccountingStorageType\s*=\s*(\S+)", call("scontrol", "show", "config"), re.MULTILINE
    )
    kind = match[1] if match else "(null)"
    return "" if kind.endswith("/none") or kind == "(null)" else kind


def check_srun(options: Sequence[str]) -> None:
    """Let srun read these options, without starting anything. Without srun they are not checked.

    Nor are options whose values are words of their own: srun would start what it takes for a
    program.

    :raises SiteError: srun refuses them.
    """
    if not options or not all(option.startswith("-") for option in options):
        return
    try:
        call("srun", *options, "--help")
    except SchedulerSilent as silent:
        try:
            call("srun", "--help")
        except SchedulerSilent:  # it refuses everything here
            return
        raise SiteError(f"srun = {list(options)} in the site profile: {silent}") from None


def test_only(script: str) -> str:
    """SLURM's answer to a batch script that it checks and does not run.

    :raises SiteError: SLURM would refuse the script.
    :raises SchedulerSilent: there is no sbatch here.
    """
    try:
        with outside_of_a_job(script):
            return call("sbatch", "--test-only", text=script).strip().removeprefix("sbatch: ")
    except SchedulerSilent as silent:
        if "not found" in str(silent):
            raise
        raise SiteError(f"SLURM would refuse it: {silent}") from None
