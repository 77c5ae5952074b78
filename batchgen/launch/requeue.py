"""Whether an element of a SLURM array goes on in a new allocation; asked by the last lines of its batch script.

It does if a worker of it died or was told to leave (a time limit, a preemption), the run is neither complete nor asked to stop, and it does
not go in circles. `scancel` ends the batch script before its last lines: a cancelled job stays cancelled. Nodes that fail are
SLURM's to requeue; no script can.

    python -m batchgen.launch.requeue RUN SUBMISSION ELEMENT STATUS     STATUS is srun's exit code; exit code 0 means: requeue

It only decides. The script calls scontrol, because this may run in a container without SLURM's commands.
"""

from __future__ import annotations

import sys
from pathlib import Path

from batchgen import durable, slurm
from batchgen.run import RunDirectory, Submission, read_stop, submissions

FRUITLESS_RELEASES = 3  # restarts in a row without a new group, after an orderly end
NO_WORK = "none of its workers died or was told to leave"
FRUITLESS_DEATHS = (
    5  # and after a death: the ladder in tasks.py needs five to name one poison picture
)


def goes_on(
    directory: RunDirectory, submission: Submission, element: int, restarts: int, status: int
) -> tuple[bool, str]:
    """Whether the element is to be requeued, and why (not).

    :param restarts: how often it was before.
    :param status: exit code of its srun.
    """
    mine = [
        m
        for m in submissions.members_of(directory, submission.number)
        if m.index in submission.of_element(element)
    ]
    lefts = {m.departure for m in mine if m.owner.restarts == restarts}
    released = sorted(str(left) for left in lefts if left and left.was_told)
    stop = read_stop(directory)
    if not (status or released):
        return False, NO_WORK
    if directory.complete():
        return False, "the run is complete"
    if stop:
        return False, f"the run was asked to stop: {stop.cause}"
    cause = (
        f"a worker died (exit code {status})"
        if status
        else f"its workers left: {', '.join(released)}"
    )
    fruitless = restarts - max((m.owner.restarts for m in mine if m.made), default=-1)
    if fruitless > (FRUITLESS_DEATHS if status else FRUITLESS_RELEASES):
        return False, f"{cause}, and {fruitless} allocations in a row brought no new picture"
    if submission.site and not submission.site.requeue:
        return False, f"{cause}, and its site profile says requeue = false"
    return True, cause


def main() -> None:
    """Answer the batch script."""
    root, number, element, status = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    directory = RunDirectory.open(root)
    submission = submissions.read_submission(directory, number)
    restarts = slurm.restarts()
    if status:
        durable.create(directory.death(slurm.job_id(), restarts), str(status).encode())
    again, why = goes_on(directory, submission, element, restarts, status)
    sys.stderr.write(
        f"batchgen: element {element} {'goes on in a new allocation' if again else 'ends'}: {why}\n"
    )
    if not again and why != NO_WORK:
        submissions.give_up(
            directory, number, element, f"element {element} on {slurm.node()}: {why}"
        )
    sys.exit(0 if again else 1)


if __name__ == "__main__":
    main()
