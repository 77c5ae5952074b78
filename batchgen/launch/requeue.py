"""Decide whether an element of a job array goes on in a new allocation.

    python -m batchgen.launch.requeue RUN SUBMISSION ELEMENT STATUS

A batch script ends with this command. STATUS is the exit code of its srun; the command's own exit
code is 0 if the element is to be requeued. The script then calls scontrol itself, because this
command may run in a container without SLURM.

An element goes on if one of its workers died or was told to leave (a time limit, a preemption), if
the run is neither complete nor asked to stop, and if the last allocations brought new pictures.
`scancel` ends a batch script before this command, so a cancelled job stays cancelled. Jobs whose
node fails are requeued by SLURM itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

from batchgen import durable, slurm
from batchgen.errors import DamagedRun
from batchgen.run import RunDirectory, Submission, job_arrays, read_stop, submissions

# Restarts in a row without a new group, if the workers left in good order.
FRUITLESS_RELEASES = 3
# The same, if a worker died. shard/escalation.py needs five deaths to find one deadly picture.
FRUITLESS_DEATHS = 5
# The same, if srun failed before a worker was there: an option of the profile may be wrong.
FRUITLESS_STARTS = 2
NOT_NEEDED = "none of its workers died or was told to leave"


def goes_on(
    directory: RunDirectory, submission: Submission, element: int, restarts: int, status: int
) -> tuple[bool, str]:
    """Whether an element is to be requeued, and why (not).

    :param restarts: how often it was requeued before.
    :param status: the exit code of its srun.
    """
    workers = submission.of_element(element)
    mine = [m for m in submissions.members_of(directory, submission.number) if m.index in workers]
    departures = {m.index: m.departure for m in mine if m.owner.restarts == restarts}
    told = sorted({str(why) for why in departures.values() if why and why.was_told})
    gone = {index for index, why in departures.items() if why and not why.was_told}
    # The ranks of a replica that failed end with an error, also if its worker said why it left.
    if gone.issuperset(workers) or not (status or told):
        return False, NOT_NEEDED
    if directory.complete():
        return False, "the run is complete"
    if stop := read_stop(directory):
        return False, f"the run was asked to stop: {stop.cause}"
    died, left = f"a worker died (exit code {status})", f"its workers left: {', '.join(told)}"
    cause = died if status else left
    fruitless = restarts - max((m.owner.restarts for m in mine if m.made), default=-1)
    if fruitless > (FRUITLESS_DEATHS if status else FRUITLESS_RELEASES):
        return False, f"{cause}, and {fruitless} allocations in a row brought no new picture"
    empty = restarts - max((m.owner.restarts for m in mine), default=-1)
    if empty > FRUITLESS_STARTS:
        said = _last_lines(directory, submission, element)
        return False, f"no worker came in {empty} allocations (exit code {status}): {said}"
    if submission.site and not submission.site.requeue:
        return False, f"{cause}, and its site profile says requeue = false"
    return True, cause


def _last_lines(directory: RunDirectory, submission: Submission, element: int) -> str:
    """What the batch script of an element printed last, which is srun's complaint."""
    jobs = job_arrays.elements_of(directory, submission.number)
    if element >= len(jobs):  # the ids of the arrays are not recorded yet
        return "see its log"
    log = submissions.batch_log(directory, submission.number, jobs[element])
    lines = [line.strip() for line in submissions.own_lines(log) if line.strip()]
    # Lines of this file say what was decided before.
    return "; ".join([line for line in lines if not line.startswith("batchgen: ")][-2:])


def main() -> None:
    """Answer the batch script."""
    root, number, element, status = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    directory = RunDirectory.open(root)
    try:
        submission = submissions.read_submission(directory, number)
    except DamagedRun as error:
        sys.exit(f"batchgen: element {element} ends: {error}")
    restarts = slurm.restarts()
    if status:
        durable.create(directory.death(slurm.job_id(), restarts), str(status).encode())
    again, why = goes_on(directory, submission, element, restarts, status)
    decision = "goes on in a new allocation" if again else "ends"
    sys.stderr.write(f"batchgen: element {element} {decision}: {why}\n")
    if not again and why != NOT_NEEDED:
        reason = f"element {element} on {slurm.node()}: {why}"
        job_arrays.give_up(directory, number, element, reason)
    sys.exit(0 if again else 1)


if __name__ == "__main__":
    main()
