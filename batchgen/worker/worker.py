"""A worker claims shards, makes their groups and publishes them until nothing is free.

It leaves when it is signalled, when the run is asked to stop, or when its time is over
(limits.py). It looks for all of these before every group.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from batchgen import durable
from batchgen.dataset import finalize_run
from batchgen.errors import DeviceFault, SickDevice, counted
from batchgen.manifest import Picture
from batchgen.run import (
    Departure,
    LeaveCause,
    Notes,
    Run,
    ask_to_stop,
    failure_of,
    read_stop,
    stop_full,
)
from batchgen.shard import (
    KILLED,
    Claim,
    Claims,
    PartialShard,
    Task,
    key_text,
    plan_tasks,
    publish_shard,
    read_shard,
    roll_forward,
    too_large,
    unpublished_verdicts,
)
from batchgen.worker.limits import Limits
from batchgen.worker.pipeline import Pipeline
from batchgen.worker.renderer import Made
from batchgen.worker.sick_devices import known_good, mark_sick
from batchgen.worker.signals import Signals

log = logging.getLogger(__name__)
# Between two looks at the stop flag while nothing is free.
WAIT_S = 1.0
# So many groups in a row fail wholly before the device is suspected.
GROUPS_TO_SUSPECT = 3


@dataclass
class Worker:
    """A worker, and what it knows of its device."""

    run: Run
    pipeline: Pipeline
    claims: Claims
    signals: Signals
    limits: Limits
    device: str
    # What it tells people who look on.
    notes: Notes = field(default_factory=lambda: Notes(None))
    # Groups that failed wholly, one after another.
    failed_groups: int = 0
    # A picture that this worker made well.
    good: Picture | None = None

    def work(self) -> Departure:
        """Work until nothing is free or the worker must leave.

        :return: why it leaves.
        """
        # Otherwise each process would learn by its own death what does not fit.
        self.pipeline.renderer.learn(too_large(unpublished_verdicts(self.run.directory)))
        while not self._must_leave():
            if claim := self.claims.next():
                log.info("shard %06d, attempt %d", claim.shard, claim.attempt)
                self._shard(claim)
            elif not self._wait():
                break
        if departure := self._must_leave():
            return departure
        if self.claims.unfinished():
            return Departure(LeaveCause.NOTHING_FREE)
        self.notes.wait("finalizing the dataset")
        finalize_run(self.run)
        return Departure(LeaveCause.ALL_DONE)

    def _must_leave(self) -> Departure | None:
        if self.signals.leave:
            return self.signals.leave
        stop = read_stop(self.run.directory)
        return Departure(LeaveCause.STOP_FLAG, stop.cause) if stop else None

    def _wait(self) -> bool:
        """Wait until SLURM can be asked again who is dead; False if that will not help."""
        seconds = self.claims.wait_s() if self.claims.unfinished() else None
        if seconds is None:
            return False
        log.info("nothing is free; asking SLURM in %.0f s whether other owners are alive", seconds)
        self.notes.wait("waiting for other workers' shards")
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._must_leave():
            time.sleep(min(WAIT_S, max(end - time.monotonic(), 0.0)))
        return True

    def _shard(self, claim: Claim) -> None:
        """Make what is left of a shard. Another attempt may publish it meanwhile."""
        done = self.run.directory.done(claim.shard)
        try:
            self._attempt(claim)
        except FileNotFoundError:
            if not done.exists():
                raise
        if done.exists():  # the other attempt removed files; this one may have written more since
            roll_forward(self.run.directory, claim.shard)

    def _attempt(self, claim: Claim) -> None:
        run, shard = self.run, self.run.plan.shards[claim.shard]
        order, extras = read_shard(run, claim.shard)
        generation = run.plan.part_of(claim.shard).generation
        partial = PartialShard(run.directory, claim.shard, claim.attempt, claim.earlier, generation)
        try:
            ends = list(accumulate(map(len, order)))

            def may_begin(task: Task) -> bool:
                if not self._may_begin(claim, task):
                    return False
                number = bisect_right(ends, task.at) + 1
                self.notes.begin_group(claim.shard, number, len(ends), len(task.pictures))
                return True

            tasks = self._tasks(claim, order, partial)
            for made in self.pipeline.run(partial, tasks, may_begin, self._watch):
                self._learn(partial, made)
            if partial.position == shard.pictures:
                self.notes.enter("publishing")
                won = publish_shard(run.directory, partial, shard, extras, run.plan)
                by = "" if won else " by another attempt"
                log.info("shard %06d published%s", claim.shard, by)
        except DeviceFault:  # a death of the groups in flight, although the process lives
            raise
        except BaseException as error:  # a signal, a full disk, a sick device: no picture's fault
            spare = None
            if durable.is_full(error):
                stop_full(run.directory, error)
                spare = self.notes.path
            claim.release(spare)
            raise
        finally:
            self.limits.unwatch()
            partial.close()
        if partial.position < shard.pictures:
            claim.release()

    def _tasks(
        self, claim: Claim, order: Sequence[Sequence[Picture]], partial: PartialShard
    ) -> list[Task]:
        """What is left to make.

        Before a picture is given up because of deaths, wait as long as a group takes. An owner
        that was wrongly declared dead ends its group meanwhile, sees its successor, and releases
        its claim, so it did not die.
        """
        left = list(plan_tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        if any(task.cause == KILLED for task in left):
            time.sleep(self.limits.longest_s(partial.records()))
            left = list(plan_tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        return left

    def _may_begin(self, claim: Claim, task: Task) -> bool:
        if self._must_leave():
            return False
        if claim.superseded():
            log.warning("shard %06d has a later attempt: leaving it", claim.shard)
            return False
        if not self.limits.in_time(task.pictures):
            self.signals.leave = Departure(LeaveCause.DEADLINE)
            return False
        self._watch()
        return True

    def _watch(self) -> None:
        """Start the time of a group, or of its audit."""
        self.limits.watch(self.pipeline.in_flight.describe)

    def _learn(self, partial: PartialShard, made: Sequence[Made]) -> None:
        """Learn from a written group: its pace, its failures, whether the device is sick."""
        failed = [one for one in made if one.cause]
        self.notes.wrote(
            len(made), [failure_of(x.picture.key, x.cause, x.picture.prompt) for x in failed]
        )
        self.limits.learn(made)
        self._compare(made)
        good = [one.picture for one in made if not one.cause]
        if good:
            self.good, self.failed_groups = good[0], 0
        if len(good) < len(made):
            self.failed_groups += not good
            over = self.limits.over_budget()
            if self.failed_groups >= GROUPS_TO_SUSPECT or (over and not good):
                self._test_device(partial)
            if over:
                ask_to_stop(self.run.directory, "failure budget", over)

    def _compare(self, made: Sequence[Made]) -> None:
        """Tell of audited pictures below the floor, and stop the run if the job says so."""
        asked, below = self.run.job.audit, [one for one in made if one.audited.outcome == "below"]
        for one in below:
            text = (
                f"picture {key_text(one.picture.key)} is {one.audited.psnr:.1f} dB from what it is "
                f"without the cache; audit.min_psnr = {asked.min_psnr:g}"
            )
            log.warning("%s", text)
            if asked.action == "stop":
                ask_to_stop(self.run.directory, "audit", text)

    def _test_device(self, partial: PartialShard) -> None:
        """Repeat a picture that was made well before, if there is one.

        :raises SickDevice: it fails. What this worker wrote since its last good picture does not
            count.
        """
        records = partial.records()
        good = self.good or known_good(self.run.directory, records)
        if good is None:
            return
        (part,) = self.pipeline.renderer.denoise([good])
        if not self.pipeline.renderer.decode(part)[0].cause:
            self.failed_groups = 0
            return
        ok = [number for number, record in enumerate(records, 1) if record.outcome == "ok"]
        partial.void(max(ok, default=0))
        picture = f"picture {key_text(good.key)}, made well before, failed too"
        reason = f"{counted(self.failed_groups, 'group')} in a row failed, and {picture}"
        mark_sick(self.run.directory, self.device, reason)
        raise SickDevice(f"{self.device}: {reason}")
