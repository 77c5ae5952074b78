"""One process: build the engine once, work through shards until nothing is free.

orders             signals, and SLURM's last moment (orders.py)
stop flag          the groups in flight are finished; exit. Looked at before every group
deadline           no group begins that cannot finish before it
a hang             after `run.group_timeout_s` a watchdog prints all stacks and ends the process
"""

from __future__ import annotations

import faulthandler
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchgen import durable
from batchgen.dataset import finalize_run
from batchgen.errors import DeviceFault, SickDevice
from batchgen.manifest import Picture
from batchgen.run import Departure, LeaveCause, Run, RunDirectory, ask_to_stop, read_stop
from batchgen.shard import (
    KILLED,
    Claim,
    Claims,
    PartialShard,
    Task,
    count_pictures,
    plan_tasks,
    publish_shard,
    read_shard,
    roll_forward,
    too_large,
    unpublished_counts,
    unpublished_verdicts,
)
from batchgen.worker.pipeline import Pipeline
from batchgen.worker.renderer import Made
from batchgen.worker.sick_devices import known_good, mark_sick
from batchgen.worker.signals import HANG_S, Signals

log = logging.getLogger(__name__)
WAIT_S = 1.0  # between two looks at the stop flag
LEAST_BUDGET = 10  # failures that a run of any size may have
GROUPS_TO_DOUBT = 3  # wholly failed groups in a row, before the device is doubted
SAFETY = 1.25  # a group is assumed to take so much longer than the slowest of its size before


@dataclass
class Worker:
    """A worker's state while it lives."""

    run: Run
    index: int
    pipeline: Pipeline
    claims: Claims
    orders: Signals
    device: str
    deadline: float = (
        math.inf
    )  # seconds since the epoch: no group begins that cannot finish before it
    end: float = math.inf  # when a worker that still works is ended
    member: Path | None = None  # as what it joined the submission
    slowest_s: dict[tuple[int, int, int], float] = field(default_factory=dict)
    doubtful: int = 0  # wholly failed groups in a row
    good: Picture | None = None  # a picture this worker made well

    def work(self) -> Departure:
        """Work until nothing is free or it must leave; why it ended."""
        self.pipeline.renderer.learn(
            too_large(unpublished_verdicts(self.run.directory))
        )  # or each process would learn it by its own death
        while not self._must_leave():
            if claim := self.claims.next():
                log.info("shard %06d, attempt %d", claim.shard, claim.attempt)
                self._shard(claim)
            elif not self._wait():
                break
        if reason := self._must_leave():
            return reason
        if self.claims.unfinished():
            return Departure(LeaveCause.NOTHING_FREE)
        finalize_run(self.run)
        return Departure(LeaveCause.ALL_DONE)

    def _wait(self) -> bool:
        """Nothing is free: until SLURM can be asked again whether an owner is dead. False where there is nothing to wait for."""
        seconds = self.claims.wait_s() if self.claims.unfinished() else None
        if seconds is None:
            return False
        log.info(
            "nothing is free; asking SLURM in %.0f s whether all who work on the rest are alive",
            seconds,
        )
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._must_leave():
            time.sleep(min(WAIT_S, max(end - time.monotonic(), 0.0)))
        return True

    def _must_leave(self) -> Departure | None:
        if self.orders.leave:
            return self.orders.leave
        stop = read_stop(self.run.directory)
        return Departure(LeaveCause.STOP_FLAG, stop.cause) if stop else None

    def _shard(self, claim: Claim) -> None:
        """Make what is left of a shard. Another attempt may publish it at any moment and sweep this one's files away."""
        try:
            self._attempt(claim)
        except FileNotFoundError:
            if not self.run.directory.done(claim.shard).exists():
                raise
        if self.run.directory.done(claim.shard).exists():
            roll_forward(
                self.run.directory, claim.shard
            )  # and sweeps what was written here after the other's sweep

    def _attempt(self, claim: Claim) -> None:
        shard = self.run.plan.shards[claim.shard]
        order, extras = read_shard(self.run, claim.shard)
        partial = PartialShard(self.run.directory, claim.shard, claim.attempt, claim.earlier)
        try:
            left = self._tasks(claim, order, partial)
            for made in self.pipeline.run(partial, left, lambda task: self._may_begin(claim, task)):
                self._learn(partial, made)
            if partial.position == shard.pictures:
                won = publish_shard(
                    self.run.directory, partial, shard, extras, self.run.plan.generation
                )
                log.info(
                    "shard %06d published%s", claim.shard, "" if won else " by another attempt"
                )
        except DeviceFault:  # a death in the groups in flight, although this process still speaks
            raise
        except (
            BaseException
        ) as error:  # an order, a full disk, a sick device: not the pictures' fault
            if durable.is_full(error):
                _stop_full(
                    self.run.directory, error
                )  # first: it makes a little room for the release
            claim.release()
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            partial.close()
        if partial.position < shard.pictures:
            claim.release()

    def _tasks(
        self, claim: Claim, order: Sequence[Sequence[Picture]], partial: PartialShard
    ) -> list[Task]:
        """What is left to make. Before deaths condemn a picture, owners that were wrongly declared dead have the time to make it.

        Such an owner ends its group, sees that it has a successor, and releases its claim: then it died no death. Where no pace is known
        yet there is no waiting.
        """
        left = list(plan_tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        if any(task.cause == KILLED for task in left):
            paces = [
                record.text_s + record.denoise_s + record.decode_s for record in partial.records()
            ]
            time.sleep(SAFETY * max([*paces, *self.slowest_s.values()], default=0.0))
            left = list(plan_tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        return left

    def _may_begin(self, claim: Claim, task: Task) -> bool:
        if self._must_leave():
            return False
        if claim.superseded():
            log.warning("shard %06d has a later attempt: leaving it", claim.shard)
            return False
        expected_s = SAFETY * self.slowest_s.get(_size(task.pictures), 0.0)
        if time.time() + expected_s > self.deadline:
            self.orders.leave = Departure(LeaveCause.DEADLINE)
            return False
        left_s = max(self.end + HANG_S - time.time(), 1.0)
        faulthandler.dump_traceback_later(min(self.run.job.run.group_timeout_s, left_s), exit=True)
        return True

    def _learn(self, partial: PartialShard, made: Sequence[Made]) -> None:
        """After a group is written: its pace, the failure budget, whether the device is to be doubted."""
        if self.member:
            self.member.with_suffix(".made").touch()
        size = _size([one.picture for one in made])
        self.slowest_s[size] = max(
            self.slowest_s.get(size, 0.0),
            sum({one.denoise_s + one.text_s + one.decode_s for one in made}),
        )
        good = [one.picture for one in made if not one.cause]
        if good:
            self.good, self.doubtful = good[0], 0
        if len(good) < len(made):
            self.doubtful += not good
            over = self._over_budget()
            if self.doubtful >= GROUPS_TO_DOUBT or (over and not good):
                self._doubt(partial)
            if over:
                ask_to_stop(self.run.directory, "failure budget", over)

    def _doubt(self, partial: PartialShard) -> None:
        """Whole groups failed, one after another: repeat a good picture; if that fails too, the device is sick.

        :raises SickDevice: it is; what this worker wrote since does not count.
        """
        good = self.good or known_good(self.run.directory, partial.records())
        if good is None:
            return
        (part,) = self.pipeline.renderer.denoise([good])
        if not self.pipeline.renderer.decode(part)[0].cause:
            self.doubtful = 0
            return
        failed = [record.outcome == "failed" for record in partial.records()]
        partial.void(
            len(failed)
            - next((n for n, bad in enumerate(reversed(failed)) if not bad), len(failed))
        )
        reason = f"{self.doubtful} groups in a row failed, and picture {good.key:09d}, made well before, failed too"
        mark_sick(self.run.directory, self.device, reason)
        raise SickDevice(f"{self.device}: {reason}")

    def _over_budget(self) -> str:
        """How far the run is over its failure budget; "" if it is not."""
        budget = max(
            LEAST_BUDGET, math.ceil(self.run.job.run.failure_budget * self.run.plan.pictures)
        )
        counts = count_pictures(self.run.directory)
        failed = counts.failed + unpublished_counts(self.run.directory, counts.shards)[1]
        return (
            f"{failed} of {self.run.plan.pictures} pictures failed; the budget is {budget}"
            if failed > budget
            else ""
        )


def _stop_full(directory: RunDirectory, error: BaseException) -> None:
    ask_to_stop(
        directory,
        "disk full",
        f"{getattr(error, 'strerror', error)}; free space below {directory.root}",
    )


def _size(pictures: Sequence[Picture]) -> tuple[int, int, int]:
    return (pictures[0].width, pictures[0].height, pictures[0].steps)
