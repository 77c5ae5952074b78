"""batchgen.worker.main."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from pathlib import Path

from batchgen import durable, slurm
from batchgen.dataset import finalize_run
from batchgen.engine import follow_engine, open_engine
from batchgen.engine.interface import Workload
from batchgen.errors import BatchgenError, DeviceFault
from batchgen.planning import software
from batchgen.run import (
    Departure,
    LeaveCause,
    Run,
    RunDirectory,
    Submission,
    open_run,
    pin_identity,
    submissions,
)
from batchgen.shard import Claims
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.placement import Placement
from batchgen.worker.renderer import Renderer
from batchgen.worker.sick_devices import device_name, is_sick
from batchgen.worker.signals import Signals, Terminated
from batchgen.worker.worker import Worker, _stop_full, log


def main(root: Path, place: Placement, orders: Signals | None = None) -> None:
    """Be a worker of a submission, or one of its ranks; called in a process of its own, whose output becomes a log.

    :param orders: where they are installed already.
    """
    if orders is None:
        orders = Signals()
        orders.install()
    directory = RunDirectory.open(root)
    _print_to(place.log(directory))
    submission = submissions.read_submission(directory, place.number)
    _tell_software(submission)
    if submission.devices:
        os.environ["CUDA_VISIBLE_DEVICES"] = submission.devices[
            (place.index * place.ranks + place.rank) % len(submission.devices)
        ]
    if place.rank:
        orders.ignore()
        run = open_run(root)
        follow_engine(run.job, run.checkpoint, workload(run), place.seat(directory))
        return
    member = submissions.join(directory, place.number, "worker", place.index)
    try:
        departure = work(open_run(root), place, submission, orders, member)
    except Terminated:
        assert orders.leave is not None
        departure = orders.leave
    except DeviceFault:
        raise
    except BatchgenError as error:  # another try would end the same way
        log.error("%s", error)
        departure = Departure.of_error(error)
    except OSError as error:
        if not durable.is_full(error):
            raise
        _stop_full(directory, error)
        departure = Departure(LeaveCause.DISK_FULL)
    finally:
        place.dismiss(directory)
    log.info("leaving: %s", departure)
    submissions.leave(member, departure)


def work(
    run: Run, place: Placement, submission: Submission, orders: Signals, member: Path | None = None
) -> Departure:
    """Build the engine and work until there is nothing to do; why it ended.

    :param member: as what the worker joined the submission.
    """
    shards = len(run.plan.shards)
    queue = submissions.queue_of(run.directory)
    claims = Claims(
        run.directory,
        shards,
        start=place.index * shards // submission.workers,
        steal=submission.steal,
        queue=queue,
    )
    if not claims.unfinished():  # before the engine is built: another has made the last shard
        finalize_run(run)
        return Departure(LeaveCause.ALL_DONE)
    device = device_name(place.index)
    if is_sick(run.directory, device):
        return Departure(LeaveCause.ERROR, f"{device} is listed as sick")
    end = (
        orders.end_before(slurm.end_time(time.time()), submission.site.signal_s)
        if submission.site
        else math.inf
    )
    deadline = min(end, submission.deadline or math.inf)
    seat = place.seat(run.directory, lambda verdict: pipeline.judge(verdict))  # noqa: PLW0108 - the pipeline comes after its engine
    engine = open_engine(run.job, run.checkpoint, workload(run), seat)
    pin_identity(run.directory, engine.identity)
    pipeline = Pipeline(
        Renderer(engine), run.job.output, Origin(slurm.node(), place.index, run.plan.generation)
    )
    try:
        return Worker(
            run, place.index, pipeline, claims, orders, device, deadline, end, member
        ).work()
    finally:
        pipeline.close()
        engine.close()


def _tell_software(submission: Submission) -> None:
    """Into the log: packages of this node that are not those of the machine which submitted."""
    for package, version in software().items():
        if submission.software.get(package) != version:
            log.warning(
                "%s is %s here and was %s where the run was submitted",
                package,
                version,
                submission.software.get(package),
            )


def workload(run: Run) -> Workload:
    """What the run asks of an engine."""
    sizes = sorted({(shape.width, shape.height) for shape in run.plan.shapes})
    return Workload(
        tuple(sizes), run.job.engine.batch_size, any(shape.negative for shape in run.plan.shapes)
    )


def _print_to(path: Path) -> None:
    """Send everything this process and its libraries print to one file, appended over restarts."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO, force=True
    )
