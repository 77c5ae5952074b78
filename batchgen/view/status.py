"""What is done, who lives, and what to do next. Read from the run directory alone; opens only what is new.

complete   every shard is published and the dataset is finalized
running    a worker lives
queued     workers were asked for, and none has started yet; or SLURM starts or requeues them
stopped    the run was asked to stop: by a person, a full disk, the failure budget, its time limit
stalled    shards are left, and nobody lives to make them
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Literal

from batchgen.planning import Plan
from batchgen.run import RunDirectory, load_plan, read_stop, read_submissions
from batchgen.shard import Tally, count_pictures, unpublished_counts
from batchgen.slurm import Queue
from batchgen.view.last_words import last_words
from batchgen.view.roster import Roster, take_roll

State = Literal["complete", "running", "queued", "stopped", "stalled"]
START_S = 60.0  # a supervisor that has not registered by then never will
EXIT_COMPLETE, EXIT_INCOMPLETE, EXIT_OVER_BUDGET, EXIT_STALLED = 0, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a run. ok + failed + pending = rows, counted from published shards."""

    run: str
    state: State
    cause: str
    next: str  # the command to type
    rows: int  # pictures planned
    ok: int
    failed: int
    pending: int
    in_progress: int  # of the pending: written into shards that are not published yet
    shards_done: int
    shards: int
    workers: int  # alive
    dead: int  # workers of the last submission that died and were not replaced
    waiting: dict[str, int]  # SLURM's reason → nodes that wait
    last_words: list[str]  # of workers that died, gave up or never came, a line each
    failures: dict[str, int]  # cause → pictures
    tar_bytes: int
    device_s: float  # seconds devices worked on published pictures
    used_s: float  # seconds of devices that workers had
    wasted_s: float  # of these, not spent on published pictures: starts, waits, what was lost, what is not published yet
    to_go_s: float | None  # seconds of devices that the rest will take
    pictures_per_device_hour: float | None
    pictures_per_second: float | None  # at the present number of workers
    left_s: float | None
    at: float

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @property
    def exit_code(self) -> int:
        """0 complete, 3 incomplete, 4 over the failure budget, 5 stalled."""
        if self.state == "stopped" and self.cause.startswith("failure budget"):
            return EXIT_OVER_BUDGET
        return {"complete": EXIT_COMPLETE, "stalled": EXIT_STALLED}.get(self.state, EXIT_INCOMPLETE)


def read_status(
    directory: RunDirectory, plan: Plan | None = None, queue: Queue | None = None
) -> Status:
    """The run's status now. `plan` saves reading it again; `queue` saves asking SLURM again."""
    plan = plan or load_plan(directory)
    crew = take_roll(directory, plan.run, queue or Queue(enough=1))
    alive = len(crew.alive)
    finalized = (
        directory.complete()
    )  # after the processes and before the counts, or a run that ends now would look stalled
    counts = count_pictures(directory)
    complete = finalized and len(counts.shards) == len(plan.shards)
    words = [] if complete else last_words(directory, crew)
    state, cause, following = (
        _complete(directory, counts) if complete else _unfinished(directory, crew, words)
    )
    pending = plan.pictures - counts.ok - counts.failed
    in_progress = sum(unpublished_counts(directory, counts.shards)) if pending else 0
    device_s = counts.device_s * crew.ranks  # rank 0 counts for all of its replica
    per_device_s = counts.ok / device_s if device_s else None
    rate = per_device_s * alive * crew.ranks if per_device_s and alive else None
    return Status(
        run=str(directory.root),
        state=state,
        cause=cause,
        next=following,
        rows=plan.pictures,
        ok=counts.ok,
        failed=counts.failed,
        pending=pending,
        in_progress=in_progress,
        shards_done=len(counts.shards),
        shards=len(plan.shards),
        workers=alive,
        dead=len(crew.dead),
        waiting=crew.waiting,
        last_words=words,
        failures=dict(counts.failures),
        tar_bytes=counts.bytes,
        device_s=device_s,
        used_s=crew.worker_s * crew.ranks,
        wasted_s=max(crew.worker_s * crew.ranks - device_s, 0.0),
        to_go_s=pending / per_device_s if per_device_s else None,
        pictures_per_device_hour=per_device_s * 3600 if per_device_s else None,
        pictures_per_second=rate,
        left_s=(pending - in_progress) / rate if rate else None,
        at=time.time(),
    )


def _complete(directory: RunDirectory, counts: Tally) -> tuple[State, str, str]:
    return (
        "complete",
        f"{len(counts.shards)} shards are published",
        f"batchgen verify {directory.root}",
    )


def _unfinished(directory: RunDirectory, crew: Roster, words: list[str]) -> tuple[State, str, str]:
    """State, cause, next command."""
    root = directory.root
    stop = read_stop(directory)
    told = f"; asked to stop: {stop.cause}" if stop else ""
    if crew.alive:
        return (
            "running",
            f"{len(crew.alive)} workers{_waiting(crew)}{told}",
            f"batchgen status {root} --watch",
        )
    if elsewhere := sorted({m.owner.host for m in crew.unknown}):
        why = crew.trouble or "which cannot be asked from here"
        return (
            "running",
            f"on {', '.join(elsewhere)}, {why}",
            f"batchgen status {root}  (on {elsewhere[0]})",
        )
    if crew.waiting or crew.starting or _may_wait_unseen(directory, crew):
        starting = (
            f"workers start or leave on {crew.starting} nodes" if crew.starting else crew.trouble
        )
        return (
            "queued",
            f"{starting}{_waiting(crew)}{told}".removeprefix("; "),
            f"batchgen status {root} --watch",
        )
    if not stop and (crew.supervised or _just_submitted(directory, crew)):
        return "queued", "workers are being started", f"batchgen status {root} --watch"
    if stop:
        remedy = {
            "disk full": "free space, then: ",
            "failure budget": "see batchgen logs --failed; to go on all the same: ",
        }
        raised = " --set run.failure_budget=SHARE" if stop.cause == "failure budget" else ""
        return (
            "stopped",
            f"{stop.cause}: {stop.text}",
            f"{remedy.get(stop.cause, '')}batchgen resume {root}{raised}",
        )
    if not read_submissions(directory):
        return "stalled", "nothing was submitted yet", f"batchgen resume {root}"
    told = "".join(f"\n  {line}" for line in words)
    return "stalled", f"shards are left, and no worker is alive{told}", f"batchgen resume {root}"


def _waiting(crew: Roster) -> str:
    """Nodes that wait in SLURM, and why."""
    nodes = sum(crew.waiting.values())
    return f"; {nodes} nodes wait in SLURM ({', '.join(sorted(crew.waiting))})" if nodes else ""


def _may_wait_unseen(directory: RunDirectory, crew: Roster) -> bool:
    """Whether workers of the last submission to SLURM have not come yet, and squeue cannot be asked about them."""
    last = read_submissions(directory)[-1:]
    here = {m.index for m in crew.members if last and m.path.parent.name == f"{last[0].number:04d}"}
    return bool(last and last[0].site and crew.trouble and len(here) < last[0].workers)


def _just_submitted(directory: RunDirectory, crew: Roster) -> bool:
    """Whether the last submission is so young that its supervisor may not have registered yet."""
    last = max(read_submissions(directory), key=lambda submission: submission.number, default=None)
    if last is None or last.site or time.time() - last.at > START_S:
        return False
    return not any(m.path.parent.name == f"{last.number:04d}" for m in crew.members)
