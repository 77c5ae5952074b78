"""A process becomes a worker of a submission, or one of a worker's other ranks."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from batchgen import durable, slurm
from batchgen.dataset import finalize_run
from batchgen.engine import Workload, follow_engine, open_engine
from batchgen.errors import BatchgenError, DamagedRun, DeviceFault
from batchgen.planning import software
from batchgen.run import (
    Departure,
    LeaveCause,
    Notes,
    Run,
    RunDirectory,
    Submission,
    open_run,
    pin_identity,
    stop_full,
    submissions,
)
from batchgen.shard import Claims
from batchgen.worker.audit import Auditor
from batchgen.worker.in_flight import InFlight
from batchgen.worker.lasting_errors import lasting_errors
from batchgen.worker.limits import Limits
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.placement import Placement
from batchgen.worker.renderer import Renderer
from batchgen.worker.scoring import Scoring
from batchgen.worker.sick_devices import device_name, is_sick
from batchgen.worker.signals import Signals, Terminated
from batchgen.worker.worker import Worker
from batchgen.worker.xmp import xmp_of

log = logging.getLogger(__name__)


def main(root: Path, placement: Placement, signals: Signals | None = None) -> None:
    """Be the process of a submission that `placement` says. What it prints becomes a log.

    :param signals: the signals, if they are installed already.
    """
    if signals is None:
        signals = Signals()
        signals.install()
    directory = RunDirectory.open(root)
    _print_to(placement.log(directory))
    try:
        submission = submissions.read_submission(directory, placement.number)
    except DamagedRun as error:  # no restart mends that
        log.error("%s", error)
        if not placement.rank:
            member = submissions.join(directory, placement.number, "worker", placement.index)
            submissions.leave(member, Departure.of_error(error))
        return
    _warn_of_other_software(submission)
    if submission.devices:
        process = placement.index * placement.ranks + placement.rank
        device = submission.devices[process % len(submission.devices)]
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if placement.rank:
        signals.ignore()
        run = open_run(root)
        follow_engine(run.job, run.checkpoint, workload(run), placement.rendezvous(directory))
        return
    member = submissions.join(directory, placement.number, "worker", placement.index)
    try:
        departure = _departure(root, placement, submission, signals, Notes(member))
    finally:
        placement.dismiss(directory)
    log.info("leaving: %s", departure)
    try:
        submissions.leave(member, departure)
    except OSError as error:
        if not durable.is_full(error):
            raise
        log.warning("nothing more can be written: %s", error)


def _departure(
    root: Path, placement: Placement, submission: Submission, signals: Signals, notes: Notes
) -> Departure:
    """Work, and say why the worker leaves in good order; any other exception is a death."""
    try:
        notes.enter("checking the run")
        with lasting_errors("the run cannot be opened"):
            run = open_run(root)
        return work(run, placement, submission, signals, notes)
    except Terminated:
        assert signals.leave is not None
        return signals.leave
    except DeviceFault:
        raise
    except BatchgenError as error:  # another try would end the same way
        log.error("%s: %s", type(error).__name__, error)
        return Departure.of_error(error)
    except OSError as error:
        if not durable.is_full(error):
            raise
        return Departure(LeaveCause.STOP_FLAG, stop_full(RunDirectory(root), error))


def work(
    run: Run,
    placement: Placement,
    submission: Submission,
    signals: Signals,
    notes: Notes | None = None,
) -> Departure:
    """Build the engine and work until there is nothing to do.

    :param notes: what the worker tells people who look on; None tells nothing.
    :return: why the worker leaves.
    """
    notes = notes or Notes(None)
    directory, shards = run.directory, len(run.plan.shards)
    queue = submissions.queue_of(directory)
    start = placement.index * shards // submission.workers
    claims = Claims(directory, shards, start, steal=submission.steal, queue=queue)
    if not claims.unfinished():  # known before the engine is built, which takes minutes
        finalize_run(run)
        return Departure(LeaveCause.ALL_DONE)
    device = device_name(placement.index)
    if is_sick(directory, device):
        return Departure(LeaveCause.ERROR, f"{device} is listed as sick")
    end = math.inf
    if submission.site:
        end = signals.end_before(slurm.end_time(time.time()), submission.site.signal_s)
    limits = Limits(run, min(end, submission.deadline or math.inf), end)
    in_flight = InFlight()
    rendezvous = placement.rendezvous(directory, in_flight.judge)
    asked = replace(workload(run), tell=notes.enter)
    with lasting_errors("the engine cannot be made"):
        engine = open_engine(run.job, run.checkpoint, asked, rendezvous)
    notes.name_device(engine.identity.partition(" torch=")[0])
    pin_identity(directory, engine.identity)
    origin = Origin(slurm.node(), placement.index)
    guidance = run.checkpoint.guidance if run.checkpoint else None
    renderer, auditor = Renderer(engine), Auditor(run.job)
    output, xmp = run.job.output, xmp_of(run)
    scored = run.checkpoint and run.checkpoint.scorer
    scoring = Scoring(engine.score if scored else None)
    pipeline = Pipeline(renderer, output, origin, in_flight, guidance, auditor, xmp, scoring)
    try:
        return Worker(run, pipeline, claims, signals, limits, device, notes).work()
    finally:
        pipeline.close()
        engine.close()


def workload(run: Run) -> Workload:
    """What the run asks of an engine."""
    shapes = run.plan.shapes
    sizes = sorted({(shape.width, shape.height) for shape in shapes})
    negative = any(shape.negative for shape in shapes)
    return Workload(tuple(sizes), run.job.engine.batch_size, negative)


def _warn_of_other_software(submission: Submission) -> None:
    for package, version in software().items():
        submitted = submission.software.get(package)
        if submitted != version:
            text = "%s is %s here and was %s where the run was submitted"
            log.warning(text, package, version, submitted)


def _print_to(path: Path) -> None:
    """Append everything that this process and its libraries print to one file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)
    style = "%(asctime)s %(levelname)s %(message)s"
    logging.basicConfig(format=style, level=logging.INFO, force=True)
