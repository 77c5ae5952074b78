"""What is done, who lives, and what to type next, read from the run directory and squeue.

complete   every shard is published and the dataset is finalized
failed     likewise, and not one picture is good
running    a worker lives
queued     workers were asked for and none has started yet, or SLURM starts or requeues them
stopped    a person, a full disk, the failure budget or the time limit stopped the run
stalled    shards are left, and nobody lives to make them
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from batchgen.errors import counted, shell_command
from batchgen.planning import Plan
from batchgen.run import Failure, RunDirectory, load_plan, read_stop
from batchgen.shard import (
    Done,
    Loss,
    Tally,
    Unpublished,
    count_pictures,
    lost_shards,
    missing_names,
    unpublished_counts,
)
from batchgen.slurm import Queue
from batchgen.view.last_words import last_words
from batchgen.view.roster import AtWork, Roster, take_roll

State = Literal["complete", "failed", "running", "queued", "stopped", "stalled"]
# A supervisor registers within this time, or never.
START_S = 60.0
# What makes room, by the cause of a stop.
_ROOM = {
    "disk full": "free space",
    "inodes used up": "remove files",
    "quota used up": "remove something of yours",
    "file size limit": "raise the limit",
}
EXIT_COMPLETE, EXIT_INCOMPLETE, EXIT_OVER_BUDGET, EXIT_STALLED = 0, 3, 4, 5


@dataclass(frozen=True, slots=True)
class Status:
    """One look at a run. Pictures are ok, failed (both published) or pending.

    A device-second is a second that a device was given to a worker.
    """

    run: str
    state: State
    cause: str
    # The command to type.
    next: str
    # Planned; `rows` in the JSON object.
    pictures: int
    # Pictures of the manifest that a trial has not planned.
    unplanned: int
    ok: int
    failed: int
    pending: int
    # Pending pictures that are written to a shard that is not published yet, and the failed ones
    # among them.
    in_progress: int
    failed_in_progress: int
    shards_done: int
    shards: int
    # Workers that live.
    workers: int
    # What they do before the first group is made, and for how long; "" from then on.
    starting: str
    # What each of them does, and what it has made.
    at_work: list[AtWork]
    # Workers of the last submission that died and were not replaced.
    dead: int
    # Nodes that wait in SLURM, by SLURM's reason.
    waiting: dict[str, int]
    last_words: list[str]
    # By cause.
    failures: dict[str, int]
    # The last ones, also of pictures that are not published yet.
    last_failures: list[Failure]
    tar_bytes: int
    # Device-seconds that made published pictures, and those of their audits.
    device_s: float
    audit_s: float
    # All device-seconds so far.
    used_s: float
    # What is left of them: starts, waits, and work that is lost or not published yet.
    wasted_s: float
    # Device-seconds that the rest will take, audits included.
    to_go_s: float | None
    # What the used device-seconds cost, and what the rest will, in the money of the site's
    # `price_per_gpu_hour`; null without one.
    cost: float | None
    cost_to_go: float | None
    # Without what audits take.
    pictures_per_device_hour: float | None
    # At the present number of workers.
    pictures_per_second: float | None
    left_s: float | None
    # What audits measured of the pictures that are written, published or not.
    loss: Loss
    # Seconds since the epoch.
    at: float

    @property
    def written(self) -> int:
        """Pictures on the disk, published or not."""
        return self.ok + self.failed + self.in_progress

    def to_json(self) -> str:
        """One JSON object of one line."""
        values = {"rows" if k == "pictures" else k: value for k, value in asdict(self).items()}
        return json.dumps(values)  # only ASCII: nothing in it can command a terminal

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to make, well or badly."""
        return self.state in ("complete", "failed")

    @property
    def exit_code(self) -> int:
        """0 complete, 3 incomplete, 4 failed or over the failure budget, 5 stalled."""
        over = self.state == "stopped" and self.cause.startswith("failure budget")
        if over or self.state == "failed":
            return EXIT_OVER_BUDGET
        return {"complete": EXIT_COMPLETE, "stalled": EXIT_STALLED}.get(self.state, EXIT_INCOMPLETE)


def read_status(
    directory: RunDirectory, plan: Plan | None = None, queue: Queue | None = None
) -> Status:
    """The run's status now.

    :param plan: the run's plan, if it was read before.
    :param queue: one that is kept between looks asks squeue less often.
    """
    plan = plan or load_plan(directory)
    roster = take_roll(directory, plan.run, queue or Queue(enough=1))
    # After the roster and before the counts: otherwise a run that ends now would look stalled.
    finalized = directory.complete()
    counts = count_pictures(directory)
    lost = lost_shards(directory, counts.shards, counts.tarless)
    counts = counts.without(directory, lost)
    complete = finalized and counts.shards.issuperset(range(len(plan.shards)))
    words = [] if complete else last_words(directory, roster)
    state, cause, following = _unfinished(directory, roster, words)
    if complete:
        state, cause, following = _finished(directory, counts)
    if lost:
        state, cause, following = _damaged(directory, lost, state, cause, following)
    pending = plan.pictures - counts.ok - counts.failed
    unpublished = unpublished_counts(directory, counts.shards) if pending else Unpublished()
    # A shard of an earlier generation that is made again may have pictures that count no more.
    in_progress = min(unpublished.pictures, pending)
    # Rank 0 of a worker counts its seconds; all ranks work as long.
    device_s, audit_s = counts.device_s * roster.ranks, counts.loss.device_s * roster.ranks
    used_s = roster.worker_s * roster.ranks
    made = counts.ok + counts.again
    pace = made / (device_s + audit_s) if device_s else None
    # What workers say of themselves is there before the first shard.
    rate = roster.pictures_per_second
    if rate is None and pace and roster.alive:
        rate = pace * len(roster.alive) * roster.ranks
    to_go_s = pending / pace if pace else None
    site = roster.last.site if roster.last else None
    price_s = site.price_per_gpu_hour / 3600 if site and site.price_per_gpu_hour else None
    return Status(
        run=str(directory.root),
        state=state,
        cause=cause,
        next=following,
        pictures=plan.pictures,
        unplanned=plan.left,
        ok=counts.ok,
        failed=counts.failed,
        pending=pending,
        in_progress=in_progress,
        failed_in_progress=unpublished.failed,
        shards_done=len(counts.shards),
        shards=len(plan.shards),
        workers=len(roster.alive),
        starting=roster.preparing,
        at_work=roster.at_work,
        dead=len(roster.dead),
        waiting=roster.waiting,
        last_words=words,
        failures=dict(counts.failures),
        last_failures=roster.failures,
        tar_bytes=counts.bytes,
        device_s=device_s,
        audit_s=audit_s,
        used_s=used_s,
        wasted_s=max(used_s - device_s - audit_s, 0.0),
        to_go_s=to_go_s,
        cost=price_s * used_s if price_s else None,
        cost_to_go=price_s * to_go_s if price_s and to_go_s is not None else None,
        pictures_per_device_hour=made / device_s * 3600 if device_s else None,
        pictures_per_second=rate,
        left_s=(pending - in_progress) / rate if rate else None,
        loss=counts.loss.plus(unpublished.loss),
        at=time.time(),
    )


def _finished(directory: RunDirectory, counts: Tally) -> tuple[State, str, str]:
    """State, cause and next command of a run in which nothing is left to make."""
    if counts.failed and not counts.ok:
        none = f"none of {counted(counts.failed, 'picture')} could be made"
        logs = shell_command("batchgen", "logs", directory.root, "--failed")
        retry = shell_command("batchgen", "resume", directory.root, "--retry-failed")
        return "failed", none, f"{logs}; mend the cause, then: {retry}"
    shards = counted(len(counts.shards), "shard is", "shards are")
    return "complete", f"{shards} published", shell_command("batchgen", "verify", directory.root)


def _unfinished(
    directory: RunDirectory, roster: Roster, words: list[str]
) -> tuple[State, str, str]:
    """State, cause and next command of a run that is not complete."""
    root, stop = directory.root, read_stop(directory)
    watch = shell_command("batchgen", "status", root, "--watch")
    resume = shell_command("batchgen", "resume", root)
    told = f"{_waiting(roster)}; asked to stop: {stop.cause}" if stop else _waiting(roster)
    if roster.alive:
        starting = f": {roster.preparing}" if roster.preparing else ""
        return "running", f"{counted(len(roster.alive), 'worker')}{starting}{told}", watch
    if elsewhere := sorted({member.owner.host for member in roster.unknown}):
        why = roster.trouble or "which cannot be asked from here"
        there = f"{shell_command('batchgen', 'status', root)}  (on {elsewhere[0]})"
        return "running", f"on {', '.join(elsewhere)}, {why}", there
    if roster.waiting or roster.starting or _may_wait_unseen(roster):
        starting = f"workers start or leave on {counted(roster.starting, 'node')}"
        begin = starting if roster.starting else roster.trouble
        return "queued", f"{begin}{told}".removeprefix("; "), watch
    if stop:
        return "stopped", f"{stop.cause}: {stop.text}", _remedy(stop.cause, root)
    if roster.supervised or _just_submitted(roster):
        return "queued", "workers are being started", watch
    if not roster.submissions:
        return "stalled", "nothing was submitted yet", resume
    lines = "".join(f"\n  {line}" for line in words)
    return "stalled", f"shards are left, and no worker is alive{lines}", resume


def _damaged(
    directory: RunDirectory, lost: list[Done], state: State, cause: str, following: str
) -> tuple[State, str, str]:
    """State, cause and next command of a run from which published files are gone."""
    gone = [path for done in lost for path in missing_names(directory, done)]
    more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
    told = f"published and gone: {', '.join(map(str, gone[:1]))}{more}"
    if state in ("running", "queued"):
        return state, f"{cause}; {told}", following
    repair = shell_command("batchgen", "verify", directory.root, "--repair")
    return "stalled", told, repair


def _remedy(cause: str, root: Path) -> str:
    """What to do about a run that was stopped for this cause."""
    resume = shell_command("batchgen", "resume", root)
    if cause in _ROOM:
        return f"{_ROOM[cause]}, then: {resume}"
    if cause == "failure budget":
        logs = shell_command("batchgen", "logs", root, "--failed")
        anyway = f"{resume} --set run.failure_budget=SHARE"
        return f"see {logs}; to go on all the same: {anyway}"
    if cause == "audit":
        anyway = f"{resume} --set audit.action=warn"
        return f"start another run with a stricter [cache]; to go on all the same: {anyway}"
    return resume


def _waiting(roster: Roster) -> str:
    """Nodes that wait in SLURM, and why."""
    nodes = sum(roster.waiting.values())
    waiting = counted(nodes, "node waits", "nodes wait")
    return f"; {waiting} in SLURM ({', '.join(sorted(roster.waiting))})" if nodes else ""


def _may_wait_unseen(roster: Roster) -> bool:
    """Whether workers may wait in SLURM while squeue cannot be asked about them."""
    if not (roster.last and roster.last.site and roster.trouble):
        return False
    return len({member.index for member in roster.of(roster.last)}) < roster.last.workers


def _just_submitted(roster: Roster) -> bool:
    """Whether the last submission is so young that its supervisor may not have registered yet."""
    last = roster.last
    if last is None or last.site or abs(time.time() - last.at) > START_S:
        return False
    return not roster.of(last)
