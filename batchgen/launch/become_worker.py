"""A process that a launcher started becomes a worker, or leaves a word why it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

from batchgen.errors import CannotStart
from batchgen.run import Departure, RunDirectory, submissions
from batchgen.worker.lasting_errors import lasting_errors
from batchgen.worker.placement import Placement
from batchgen.worker.signals import Signals


def become_worker(root: Path, placement: Placement, signals: Signals | None = None) -> None:
    """Be the process of a submission that `placement` says.

    If the installation lacks something, the worker leaves with that reason: `batchgen status` shows
    it, and nobody starts the worker again. Another rank only ends, because rank 0 leaves likewise.

    :param signals: the signals, if they are installed already.
    """
    try:
        with lasting_errors("the worker cannot be imported"):
            from batchgen.worker.main import main
    except CannotStart as error:
        if placement.rank:
            sys.exit(str(error))
        directory = RunDirectory.open(root)
        member = submissions.join(directory, placement.number, "worker", placement.index)
        placement.dismiss(directory)
        submissions.leave(member, Departure.of_error(error))
        return
    main(root, placement, signals)
