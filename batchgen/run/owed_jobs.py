"""SLURM jobs of a run that may live, as far as the run's own files say.

A listing of squeue that lacks one of them may be wrong: it is checked (slurm/queue.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator

from batchgen.run.directory import RunDirectory
from batchgen.run.job_arrays import elements_given_up, elements_of
from batchgen.run.submissions import Member, Submission


def owed_jobs(
    directory: RunDirectory, submissions: Iterable[Submission], members: Iterable[Member]
) -> set[str]:
    """The names of all jobs whose end is not on record, as people type them.

    :param members: processes of these submissions, those of one worker in the order of their
        starts.
    """
    of: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        of[member.submission].append(member)
    owed = set()
    for submission in submissions:
        mine = of[submission.number]
        elements = elements_of(directory, submission.number)
        if elements:
            owed |= {elements[one] for one in _open_elements(directory, submission, mine, elements)}
        else:  # local workers in a job that is not ours, or the arrays were not recorded
            owed |= {m.owner.job for m in mine if m.owner.job and not m.departure}
    return owed


def _open_elements(
    directory: RunDirectory, submission: Submission, members: Iterable[Member], names: list[str]
) -> Iterator[int]:
    """Elements of which a worker has not come, has not left, or was told to leave.

    A worker that was told to leave may come back in another allocation.
    """
    last = {member.index: member.departure for member in members if member.role == "worker"}
    gone = {index for index, why in last.items() if why and not why.was_told}
    given_up = elements_given_up(directory, submission.number)
    for element in range(len(names)):
        if element not in given_up and not gone.issuperset(submission.of_element(element)):
            yield element
