"""A run: its directory, its plan, and the processes that were sent to it.

    generations.py   later plans of a run: pictures made again, rows appended
    run.py           plan, job and directory together; created once, checked when opened
    place.py         the folder of a new run: which may become one
    ownership.py     whether a run is this user's alone
    aside.py         files that are taken out of the way, never deleted
    plan_files.py    the plans of all generations, each checked against the one before
    key_lists.py     frozen lists of pictures, which a generation makes
    moved.py         the manifest's files, where they were moved
    owed_jobs.py     SLURM jobs whose end is not on record
    job_arrays.py    a submission's job arrays in SLURM, and their elements
    stages.py        what workers do, and what they have made so far
    submissions.py   what was submitted, and the processes that belong to it
    departures.py    why a process left in good order
    owner.py         a process and its SLURM job, and whether it lives
    stop.py          the stop flag
    state_file.py    small JSON files, read with their types checked
    directory.py     the names of all files of a run

A room imports only rooms below it.
"""

from batchgen.run import job_arrays, submissions
from batchgen.run.aside import new_aside, put_aside, replace_keeping
from batchgen.run.departures import Departure, LeaveCause
from batchgen.run.directory import BUCKET, RunDirectory
from batchgen.run.generations import begin_again, begin_further, begin_rest_of_sample, overtaken
from batchgen.run.job_arrays import arrays_of, elements_given_up, elements_of, given_up
from batchgen.run.key_lists import read_list, reseeded_by
from batchgen.run.moved import refuse_missing
from batchgen.run.owed_jobs import owed_jobs
from batchgen.run.owner import Owner
from batchgen.run.ownership import refuse_others
from batchgen.run.place import missing_folders, refuse_letters, refuse_place, unless_started
from batchgen.run.plan_files import later_generations, load_plan
from batchgen.run.run import Run, create, inspect_run, open_run, pin_identity
from batchgen.run.stages import Failure, Notes, Stage, failure_of, read_stage
from batchgen.run.state_file import read_state
from batchgen.run.stop import ask_to_stop, clear_stop, read_stop, stop_full
from batchgen.run.submissions import (
    Member,
    Submission,
    batch_log,
    last_line,
    log_file,
    members,
    own_lines,
    read_submissions,
    supervisor_log,
)

__all__ = [
    "BUCKET",
    "Departure",
    "Failure",
    "LeaveCause",
    "Member",
    "Notes",
    "Owner",
    "Run",
    "RunDirectory",
    "Stage",
    "Submission",
    "arrays_of",
    "ask_to_stop",
    "batch_log",
    "begin_again",
    "begin_further",
    "begin_rest_of_sample",
    "clear_stop",
    "create",
    "elements_given_up",
    "elements_of",
    "failure_of",
    "given_up",
    "inspect_run",
    "job_arrays",
    "last_line",
    "later_generations",
    "load_plan",
    "log_file",
    "members",
    "missing_folders",
    "new_aside",
    "open_run",
    "overtaken",
    "owed_jobs",
    "own_lines",
    "pin_identity",
    "put_aside",
    "read_list",
    "read_stage",
    "read_state",
    "read_stop",
    "read_submissions",
    "refuse_letters",
    "refuse_missing",
    "refuse_others",
    "refuse_place",
    "replace_keeping",
    "reseeded_by",
    "stop_full",
    "submissions",
    "supervisor_log",
    "unless_started",
]
