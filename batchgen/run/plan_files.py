"""The plans of a run: plan.json and one for each later generation, which names the one before."""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.errors import DamagedRun
from batchgen.planning import Generation, Plan, continue_plan, decode_generation, decode_plan
from batchgen.regular_file import read_regular
from batchgen.run.directory import RunDirectory
from batchgen.run.moved import with_present_places


def load_plan(directory: RunDirectory) -> Plan:
    """A run's plan with all generations, and the places where the manifest's files are now.

    :raises DamagedRun: a file is not the plan that was made, or gone.
    """
    text = read_regular(directory.plan)
    plan = decode_plan(text, directory.plan)
    for number in range(1, directory.last_generation() + 1):
        path = directory.generation(number)
        following, before = read_plan_file(directory, number), text
        plan = continue_plan(plan, before, decode_generation(following, path), path)
        text = following
    return with_present_places(directory, plan)


def later_generations(directory: RunDirectory) -> Iterator[Generation]:
    """The run's generations after the first, not compared with each other.

    :raises DamagedRun: a file is not the plan that was made, or gone.
    """
    for number in range(1, directory.last_generation() + 1):
        yield decode_generation(read_plan_file(directory, number), directory.generation(number))


def read_plan_file(directory: RunDirectory, number: int) -> bytes:
    """The text of a generation's plan; that of plan.json for 0.

    :raises DamagedRun: it is gone.
    """
    path = directory.generation(number) if number else directory.plan
    try:
        return read_regular(path)
    except FileNotFoundError:
        raise DamagedRun(
            f"{path}: is gone, and the run has a later generation. Put it back from a copy."
        ) from None
