"""What a complete run goes on with: failed pictures are tried again.

Each function plans the run's next generation and starts nothing: `resume` makes what is planned. A
generation that was planned and is not made goes on when the same is asked again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from batchgen.errors import InputError, StillRunning, counted, shell_command

if TYPE_CHECKING:
    from batchgen.run import Run

# So long the processes that completed a run may take to leave.
LEAVE_S = 20.0


def retry_failed(run: Run) -> tuple[Run, str]:
    """Plan the pictures once more that have failed.

    :return: the run as it is then, and a sentence that says what was done.
    :raises InputError: other pictures are to be made first.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.run import begin_again
    from batchgen.shard import failed_keys, shards_of

    number = run.plan.last_generation
    if not _is_complete(run, "retry"):
        return run, f"Generation {number}, which tries failed pictures again, goes on."
    keys = failed_keys(run.directory)
    if not len(keys):
        return run, "No picture has failed: there is nothing to try again."
    again = begin_again(run, "retry", keys, shards_of(run, keys, before=number + 1))
    return again, _told(again)


def _told(run: Run) -> str:
    one = run.plan.later[-1]
    shards = counted(len(one.shards), "shard")
    return f"Generation {one.generation}: {counted(one.pictures, 'picture')} in {shards}."


def _is_complete(run: Run, kind: str) -> bool:
    """Whether a run is complete and its next generation may begin; what can be completed is.

    :return: False if such a generation is planned already and not made.
    :raises InputError: something else is to be made first.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.dataset import finalize_run

    if finalize_run(run):
        _wait_until_left(run)
        return True
    if run.plan.later and run.plan.later[-1].kind == kind:
        return False
    resume = shell_command("batchgen", "resume", run.directory.root)
    raise InputError(
        f"{run.directory.root} is not complete, and what is planned comes first. Go on with: "
        f"{resume}"
    )


def _wait_until_left(run: Run) -> None:
    """Wait for the processes that completed a run a moment ago. They leave by themselves.

    :raises StillRunning: they do not.
    """
    from batchgen.slurm import Queue
    from batchgen.view.roster import take_roll

    end = time.monotonic() + LEAVE_S
    while True:
        seen = take_roll(run.directory, run.plan.run, Queue(enough=1))
        if not (seen.alive or seen.supervised or seen.waiting or seen.starting):
            return
        if time.monotonic() > end:
            cancel = shell_command("batchgen", "cancel", run.directory.root)
            raise StillRunning(
                f"{run.directory.root} is complete, and some of its workers or jobs are still "
                f"there. To cancel what waits in SLURM: {cancel}"
            )
        time.sleep(0.2)
