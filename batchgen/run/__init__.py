"""A run: its directory, its plan, and the processes that were sent to it.

    run.py           plan, job and directory together; created once, checked when opened
    submissions.py   what was submitted, and the processes that belong to it
    departures.py    why a process left in good order
    owner.py         a process and its SLURM job, and whether it lives
    stop.py          the stop flag
    directory.py     the names of all files of a run

A room imports only rooms below it.
"""

from batchgen.run import submissions
from batchgen.run.departures import Departure, LeaveCause
from batchgen.run.directory import BUCKET, RunDirectory
from batchgen.run.owner import Owner
from batchgen.run.run import Run, create, load_plan, open_run, pin_identity
from batchgen.run.stop import ask_to_stop, clear_stop, read_stop
from batchgen.run.submissions import (
    Member,
    Submission,
    arrays_of,
    batch_log,
    elements_of,
    given_up,
    last_line,
    log_file,
    members,
    own_lines,
    read_submissions,
)

__all__ = [
    "BUCKET",
    "Departure",
    "LeaveCause",
    "Member",
    "Owner",
    "Run",
    "RunDirectory",
    "Submission",
    "arrays_of",
    "ask_to_stop",
    "batch_log",
    "clear_stop",
    "create",
    "elements_of",
    "given_up",
    "last_line",
    "load_plan",
    "log_file",
    "members",
    "open_run",
    "own_lines",
    "pin_identity",
    "read_stop",
    "read_submissions",
    "submissions",
]
