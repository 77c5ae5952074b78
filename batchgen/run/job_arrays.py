"""The job arrays of a submission in SLURM: their ids, their elements, and those that are over.

An element is one job of an array. Its workers register as those of any submission do
(submissions.py), in whose folder these files are:

slurm.json         the ids of the job arrays
element-003.over   why element 3 was not requeued although shards are left
"""

from __future__ import annotations

import json
from pathlib import Path

from batchgen import durable
from batchgen.run.directory import RunDirectory
from batchgen.run.state_file import read_state, read_words
from batchgen.run.submissions import folder


def record_arrays(directory: RunDirectory, number: int, arrays: dict[str, int]) -> None:
    """Note the ids of a submission's job arrays and how many elements each array has."""
    durable.create(_arrays_file(directory, number), json.dumps(arrays).encode())


def arrays_of(directory: RunDirectory, number: int) -> dict[str, int]:
    """The ids of a submission's job arrays and how many elements each array has.

    :raises DamagedRun: the file is damaged.
    """
    path = _arrays_file(directory, number)
    return read_state(path, dict[str, int]) if path.exists() else {}


def _arrays_file(directory: RunDirectory, number: int) -> Path:
    return folder(directory, number) / "slurm.json"


def elements_of(directory: RunDirectory, number: int) -> list[str]:
    """The SLURM jobs of a submission's elements, as people type them.

    The name is 4711_3, or 4711 for an element that is alone in its array.
    """
    return [
        f"{array}_{element}" if count > 1 else array
        for array, count in arrays_of(directory, number).items()
        for element in range(count)
    ]


def give_up(directory: RunDirectory, number: int, element: int, reason: str) -> None:
    """Record that an element is not requeued although shards are left."""
    durable.replace(folder(directory, number) / f"element-{element:03d}.over", reason.encode())


def given_up(directory: RunDirectory, number: int) -> list[str]:
    """Why elements of a submission were not requeued."""
    return list(elements_given_up(directory, number).values())


def elements_given_up(directory: RunDirectory, number: int) -> dict[int, str]:
    """The elements of a submission that were not requeued although shards are left, and why."""
    notes = sorted(folder(directory, number).glob("element-*.over"))
    return {int(path.stem.removeprefix("element-")): read_words(path) for path in notes}
