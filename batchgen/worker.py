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
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from batchgen import durable, slurm, submissions
from batchgen.claims import Claim, Claims
from batchgen.device import device_name, is_sick, known_good, mark_sick
from batchgen.engine import Workload
from batchgen.engine.open import follow_engine, open_engine
from batchgen.errors import BatchgenError, DeviceFault, SickDevice
from batchgen.finalize import finalize
from batchgen.group import Made, Renderer
from batchgen.manifest import Picture
from batchgen.orders import HANG_S, Orders, Terminated
from batchgen.partial import Partial, verdicts
from batchgen.pipeline import Origin, Pipeline
from batchgen.plan import software
from batchgen.publish import publish
from batchgen.run import Run, open_run, pin_identity
from batchgen.seat import Place
from batchgen.shard import read_shard
from batchgen.store import Store
from batchgen.submissions import Submission
from batchgen.tally import tally, unpublished
from batchgen.tasks import KILLED, Task, tasks, too_large

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
    orders: Orders
    device: str
    deadline: float = math.inf  # seconds since the epoch: no group begins that cannot finish before it
    end: float = math.inf  # when a worker that still works is ended
    member: Path | None = None  # as what it joined the submission
    slowest_s: dict[tuple[int, int, int], float] = field(default_factory=dict)
    doubtful: int = 0  # wholly failed groups in a row
    good: Picture | None = None  # a picture this worker made well

    def work(self) -> str:
        """Work until nothing is free or it must leave; why it ended."""
        self.pipeline.renderer.learn(too_large(verdicts(self.run.store)))  # or each process would learn it by its own death
        while not self._must_leave():
            if claim := self.claims.next():
                log.info("shard %06d, attempt %d", claim.shard, claim.attempt)
                self._shard(claim)
            elif not self._wait():
                break
        if reason := self._must_leave():
            return reason
        if self.claims.unfinished():
            return submissions.NOTHING_FREE
        finalize(self.run)
        return submissions.ALL_DONE

    def _wait(self) -> bool:
        """Nothing is free: until SLURM can be asked again whether an owner is dead. False where there is nothing to wait for."""
        seconds = self.claims.wait_s() if self.claims.unfinished() else None
        if seconds is None:
            return False
        log.info("nothing is free; asking SLURM in %.0f s whether all who work on the rest are alive", seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._must_leave():
            time.sleep(min(WAIT_S, max(end - time.monotonic(), 0.0)))
        return True

    def _must_leave(self) -> str:
        if self.orders.leave:
            return self.orders.leave
        stop = self.run.store.stopped()
        return f"stop flag: {stop.cause}" if stop else ""

    def _shard(self, claim: Claim) -> None:
        """Make what is left of a shard. Another attempt may publish it at any moment and sweep this one's files away."""
        try:
            self._attempt(claim)
        except FileNotFoundError:
            if not self.run.store.done(claim.shard).exists():
                raise
        if self.run.store.done(claim.shard).exists():
            self.run.store.roll_forward(claim.shard)  # and sweeps what was written here after the other's sweep

    def _attempt(self, claim: Claim) -> None:
        shard = self.run.plan.shards[claim.shard]
        order, extras = read_shard(self.run, claim.shard)
        partial = Partial(self.run.store, claim.shard, claim.attempt, claim.earlier)
        try:
            left = self._tasks(claim, order, partial)
            for made in self.pipeline.run(partial, left, lambda task: self._may_begin(claim, task)):
                self._learn(partial, made)
            if partial.position == shard.pictures:
                won = publish(self.run.store, partial, shard, extras, self.run.plan.generation)
                log.info("shard %06d published%s", claim.shard, "" if won else " by another attempt")
        except DeviceFault:  # a death in the groups in flight, although this process still speaks
            raise
        except BaseException as error:  # an order, a full disk, a sick device: not the pictures' fault
            if durable.is_full(error):
                _stop_full(self.run.store, error)  # first: it makes a little room for the release
            claim.release()
            raise
        finally:
            faulthandler.cancel_dump_traceback_later()
            partial.close()
        if partial.position < shard.pictures:
            claim.release()

    def _tasks(self, claim: Claim, order: Sequence[Sequence[Picture]], partial: Partial) -> list[Task]:
        """What is left to make. Before deaths condemn a picture, owners that were wrongly declared dead have the time to make it.

        Such an owner ends its group, sees that it has a successor, and releases its claim: then it died no death. Where no pace is known
        yet there is no waiting.
        """
        left = list(tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        if any(task.cause == KILLED for task in left):
            paces = [record.text_s + record.denoise_s + record.decode_s for record in partial.records()]
            time.sleep(SAFETY * max([*paces, *self.slowest_s.values()], default=0.0))
            left = list(tasks(order, partial.position, claim.deaths(), claim.verdicts()))
        return left

    def _may_begin(self, claim: Claim, task: Task) -> bool:
        if self._must_leave():
            return False
        if claim.superseded():
            log.warning("shard %06d has a later attempt: leaving it", claim.shard)
            return False
        expected_s = SAFETY * self.slowest_s.get(_size(task.pictures), 0.0)
        if time.time() + expected_s > self.deadline:
            self.orders.leave = submissions.DEADLINE
            return False
        left_s = max(self.end + HANG_S - time.time(), 1.0)
        faulthandler.dump_traceback_later(min(self.run.job.run.group_timeout_s, left_s), exit=True)
        return True

    def _learn(self, partial: Partial, made: Sequence[Made]) -> None:
        """After a group is written: its pace, the failure budget, whether the device is to be doubted."""
        if self.member:
            self.member.with_suffix(".made").touch()
        size = _size([one.picture for one in made])
        self.slowest_s[size] = max(self.slowest_s.get(size, 0.0), sum({one.denoise_s + one.text_s + one.decode_s for one in made}))
        good = [one.picture for one in made if not one.cause]
        if good:
            self.good, self.doubtful = good[0], 0
        if len(good) < len(made):
            self.doubtful += not good
            over = self._over_budget()
            if self.doubtful >= GROUPS_TO_DOUBT or (over and not good):
                self._doubt(partial)
            if over:
                self.run.store.ask_to_stop("failure budget", over)

    def _doubt(self, partial: Partial) -> None:
        """Whole groups failed, one after another: repeat a good picture; if that fails too, the device is sick.

        :raises SickDevice: it is; what this worker wrote since does not count.
        """
        good = self.good or known_good(self.run.store, partial.records())
        if good is None:
            return
        (part,) = self.pipeline.renderer.denoise([good])
        if not self.pipeline.renderer.decode(part)[0].cause:
            self.doubtful = 0
            return
        failed = [record.outcome == "failed" for record in partial.records()]
        partial.void(len(failed) - next((n for n, bad in enumerate(reversed(failed)) if not bad), len(failed)))
        reason = f"{self.doubtful} groups in a row failed, and picture {good.key:09d}, made well before, failed too"
        mark_sick(self.run.store, self.device, reason)
        raise SickDevice(f"{self.device}: {reason}")

    def _over_budget(self) -> str:
        """How far the run is over its failure budget; "" if it is not."""
        budget = max(LEAST_BUDGET, math.ceil(self.run.job.run.failure_budget * self.run.plan.pictures))
        counts = tally(self.run.store)
        failed = counts.failed + unpublished(self.run.store, counts.shards)[1]
        return f"{failed} of {self.run.plan.pictures} pictures failed; the budget is {budget}" if failed > budget else ""


def _stop_full(store: Store, error: BaseException) -> None:
    store.ask_to_stop("disk full", f"{getattr(error, 'strerror', error)}; free space below {store.root}")


def _size(pictures: Sequence[Picture]) -> tuple[int, int, int]:
    return (pictures[0].width, pictures[0].height, pictures[0].steps)


def main(root: Path, place: Place, orders: Orders | None = None) -> None:
    """Be a worker of a submission, or one of its ranks; called in a process of its own, whose output becomes a log.

    :param orders: where they are installed already.
    """
    if orders is None:
        orders = Orders()
        orders.install()
    store = Store.open(root)
    _print_to(place.log(store))
    submission = submissions.read(store, place.number)
    _tell_software(submission)
    if submission.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = submission.devices[(place.index * place.ranks + place.rank) % len(submission.devices)]
    if place.rank:
        orders.ignore()
        run = open_run(root)
        follow_engine(run.job, run.checkpoint, workload(run), place.seat(store))
        return
    member = submissions.join(store, place.number, "worker", place.index)
    try:
        reason = work(open_run(root), place, submission, orders, member)
    except Terminated:
        reason = orders.leave
    except DeviceFault:
        raise
    except BatchgenError as error:  # another try would end the same way
        log.error("%s", error)
        reason = f"{type(error).__name__}: {error}"
    except OSError as error:
        if not durable.is_full(error):
            raise
        _stop_full(store, error)
        reason = "disk full"
    finally:
        place.dismiss(store)
    log.info("leaving: %s", reason)
    submissions.leave(member, reason)


def work(run: Run, place: Place, submission: Submission, orders: Orders, member: Path | None = None) -> str:
    """Build the engine and work until there is nothing to do; why it ended.

    :param member: as what the worker joined the submission.
    """
    shards = len(run.plan.shards)
    queue = submissions.queue_of(run.store)
    claims = Claims(run.store, shards, start=place.index * shards // submission.workers, steal=submission.steal, queue=queue)
    if not claims.unfinished():  # before the engine is built: another has made the last shard
        finalize(run)
        return submissions.ALL_DONE
    device = device_name(place.index)
    if is_sick(run.store, device):
        return f"{device} is listed as sick"
    end = orders.end_before(slurm.end_time(time.time()), submission.site.signal_s) if submission.site else math.inf
    deadline = min(end, submission.deadline or math.inf)
    seat = place.seat(run.store, lambda verdict: pipeline.judge(verdict))  # noqa: PLW0108 - the pipeline comes after its engine
    engine = open_engine(run.job, run.checkpoint, workload(run), seat)
    pin_identity(run.store, engine.identity)
    pipeline = Pipeline(Renderer(engine), run.job.output, Origin(slurm.node(), place.index, run.plan.generation))
    try:
        return Worker(run, place.index, pipeline, claims, orders, device, deadline, end, member).work()
    finally:
        pipeline.close()
        engine.close()


def _tell_software(submission: Submission) -> None:
    """Into the log: packages of this node that are not those of the machine which submitted."""
    for package, version in software().items():
        if submission.software.get(package) != version:
            log.warning("%s is %s here and was %s where the run was submitted", package, version, submission.software.get(package))


def workload(run: Run) -> Workload:
    """What the run asks of an engine."""
    sizes = sorted({(shape.width, shape.height) for shape in run.plan.shapes})
    return Workload(tuple(sizes), run.job.engine.batch_size, any(shape.negative for shape in run.plan.shapes))


def _print_to(path: Path) -> None:
    """Send everything this process and its libraries print to one file, appended over restarts."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, force=True)
