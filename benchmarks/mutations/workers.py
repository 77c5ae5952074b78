"""Workers that work in this process, where a command would start others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from batchgen.errors import BatchgenError
from batchgen.launch import supervisor
from batchgen.run import (
    Departure,
    LeaveCause,
    Notes,
    Run,
    RunDirectory,
    Submission,
    open_run,
    submissions,
)
from batchgen.worker import main as worker
from batchgen.worker.limits import Limits
from batchgen.worker.placement import Placement
from batchgen.worker.signals import Signals

# A worker that waits for others is told to leave after this time.
PATIENCE_S = 5.0


@contextmanager
def working_here() -> Iterator[None]:
    """Let every launch on this machine be one worker in this process, which works to its end."""
    with (
        patch.object(supervisor, "launch", _launch),
        # The process is watched from outside.
        patch.object(Limits, "watch", lambda *_: None),
    ):
        yield


def _launch(run: Run, command: list[str], **_: Any) -> Submission:
    submission = submissions.record_submission(run.directory, command, workers=1)
    work(run.directory, submission)
    return submission


def work(directory: RunDirectory, submission: Submission) -> None:
    """Be the worker of a submission.

    :raises Exception: whatever would end a worker's process with a traceback in its log.
    """
    signals = Signals()
    timer = threading.Timer(PATIENCE_S, lambda: _leave(signals))
    timer.start()
    member = submissions.join(directory, submission.number, "worker")
    try:
        placement = Placement(submission.number, 0)
        run = open_run(directory.root)
        departure = worker.work(run, placement, submission, signals, Notes(member))
    except BatchgenError as error:
        departure = Departure.of_error(error)
    finally:
        timer.cancel()
    submissions.leave(member, departure)


def _leave(signals: Signals) -> None:
    signals.leave = Departure(LeaveCause.DEADLINE)
