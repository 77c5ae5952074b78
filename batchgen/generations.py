"""What a complete run goes on with: failures tried again, rows appended, the rest of a trial.

Each function plans the run's next generation and starts nothing: `resume` makes what is planned. A
generation that was planned and is not made goes on when the same is asked again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen.errors import InputError, StillRunning, brief, counted, one_line, shell_command

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from batchgen.planning import AddedRows, Generation, Hardware, Plan
    from batchgen.run import Run

# So long the processes that completed a run may take to leave.
LEAVE_S = 20.0
# More than any key has; more would not fit into 64 bits.
MOST_DIGITS = 18


def retry_failed(run: Run) -> tuple[Run, str]:
    """Plan the pictures once more that have failed.

    :return: the run as it is then, and a sentence that says what was done.
    :raises InputError: other pictures are to be made first.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.run import begin_again
    from batchgen.shard import failed_keys, shards_of

    number = run.plan.last_generation
    if _goes_on(run, lambda last: last.kind == "retry"):
        return run, f"Generation {number}, which tries failed pictures again, goes on."
    keys = failed_keys(run.directory)
    if not len(keys):
        return run, "No picture has failed: there is nothing to try again."
    again = begin_again(run, "retry", keys, shards_of(run, keys, before=number + 1))
    return again, _told(again)


def extend(run: Run, more: Sequence[str], hardware: Hardware) -> tuple[Run, str]:
    """Append rows to a run's manifest, and plan their pictures. Rows are not appended twice.

    :param more: files, globs or folders; or URLs of such.
    :param hardware: the devices that are to make the pictures.
    :return: the run as it is then, and a sentence that says what was done.
    :raises ManifestError: the rows break the contract, or do not go with those that there are.
    :raises InputError: other pictures are to be made first, or rows behind URLs were appended.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.run import begin_further

    if _goes_on(run, lambda last: bool(last.added and _are_same(last.added, more))):
        return run, f"Generation {run.plan.last_generation}, with these rows, goes on."
    if before := _appended(run, more):
        return run, f"Generation {before} has appended these rows already: nothing is left to do."
    if run.plan.listed and run.plan.left:
        rest = shell_command("batchgen", "resume", run.directory.root, "--rest")
        raise InputError(
            f"{run.directory.root}: rows are appended after the last one, and the trial has left "
            f"pictures before. Make them first: {rest}"
        )
    further = begin_further(run, more, _fitting(run, hardware))
    added, left = further.plan.later[-1].added, run.plan.left
    assert added, "rows were appended"
    rest = f" and {left:,} that the trial left" if left else ""
    pictures = f"{counted(added.pictures, 'picture')} of {counted(added.rows, 'row')} more{rest}"
    read = f" They were read as {added.read_as}." if added.read_as else ""
    cut = counted(added.over_long, "prompt of them is", "prompts of them are")
    too_long = f" {cut} cut: too long for the model." if added.over_long else ""
    return further, f"{_told(further)} {pictures}.{read}{too_long}"


def remake(run: Run, given: Sequence[str], *, same_seeds: bool = False) -> tuple[Run, str]:
    """Plan that pictures are made once more.

    :param given: keys, several in one text with commas, or files with a key a line.
    :param same_seeds: with the seeds that they have. With those a sound device makes the same
        picture again.
    :return: the run as it is then, and a sentence that says what was done.
    :raises InputError: a key is none of the run's, or other pictures are to be made first.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.run import begin_again, read_list
    from batchgen.shard import shards_of

    keys, number = _keys(run, given), run.plan.last_generation

    def is_same(last: Generation) -> bool:
        if last.kind != "remake" or last.new_seeds == same_seeds or not last.listed:
            return False
        planned = read_list(run.directory, last.listed)["index"].to_pylist()
        return bool(planned == keys.tolist())

    if _goes_on(run, is_same):
        return run, f"Generation {number}, which makes these pictures again, goes on."
    shards = shards_of(run, keys, before=number + 1)
    again = begin_again(run, "remake", keys, shards, new_seeds=not same_seeds)
    return again, _told(again)


def _keys(run: Run, given: Sequence[str]) -> npt.NDArray[np.int64]:
    """Keys that were given as texts or files, in ascending order, each once.

    :raises InputError: one is not of a planned picture, or there are none.
    """
    import numpy as np

    from batchgen.shard import key_text, shards_of

    words: list[str] = []
    for text in given:
        path = os.path.expanduser(text)  # noqa: PTH111 - a list of keys may be too long for a name
        is_file = os.path.isfile(path)  # noqa: PTH113
        words += Path(path).read_text().split() if is_file else text.split(",")
    words = [word.strip() for word in words if word.strip()]
    if wrong := [word for word in words if not (word.isascii() and word.isdigit())]:
        raise InputError(
            f"{brief(one_line(wrong[0]))}: neither a key nor a file with keys; a key is a number "
            "as 000000020"
        )
    digits = (word.lstrip("0")[: MOST_DIGITS + 1] for word in words)
    keys = np.array(sorted({min(int(some or 0), 10**MOST_DIGITS) for some in digits}), np.int64)
    if not len(keys):
        raise InputError("no keys were given; a key is a number as 000000020")
    unknown = keys[shards_of(run, keys, before=run.plan.last_generation + 1) < 0]
    if len(unknown):
        told = shell_command("batchgen", "records", run.directory.root)
        raise InputError(
            f"{key_text(int(unknown[0]))}: this run has no picture with this key. What it has: "
            f"{told}"
        )
    return keys


def plan_rest(run: Run, hardware: Hardware) -> Run:
    """Plan the pictures that a trial has left, when it is complete; before, it goes on itself.

    :param hardware: the devices that are to make the pictures.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.dataset import finalize_run
    from batchgen.run import begin_further, begin_rest_of_sample

    if not finalize_run(run) or not run.plan.left:
        return run
    _wait_until_left(run)
    if run.plan.listed:
        return begin_rest_of_sample(run, _fitting(run, hardware))
    return begin_further(run, [], _fitting(run, hardware))


def _are_same(planned: AddedRows, more: Sequence[str]) -> bool:
    """Whether rows that were appended are those of these files or URLs."""
    from batchgen.manifest import find_files, identify_file, names_of
    from batchgen.remote import is_url

    if all(map(is_url, more)):
        return list(planned.manifest) == names_of(more)
    return list(planned.content) == [identify_file(path, 0).sha256 for path in find_files(more)]


def _appended(run: Run, more: Sequence[str]) -> int:
    """The generation that has appended these files; 0 if none has.

    What is behind URLs is compared when it is fetched: a URL may have other rows every day.
    """
    from batchgen.remote import is_url

    if any(map(is_url, more)):
        return 0
    planned = ((one.generation, one.added) for one in run.plan.later if one.added)
    return next((number for number, added in planned if _are_same(added, more)), 0)


def _fitting(run: Run, hardware: Hardware) -> Callable[[Plan], None]:
    from batchgen.planning import refuse_unfit

    return lambda plan: refuse_unfit(run.job, run.checkpoint, plan, hardware)


def _told(run: Run) -> str:
    one = run.plan.later[-1]
    shards = counted(len(one.shards), "shard")
    return f"Generation {one.generation}: {counted(one.pictures, 'picture')} in {shards}."


def _goes_on(run: Run, is_same: Callable[[Generation], bool]) -> bool:
    """Whether a command asks for the generation that is being made. If not, the next may begin.

    What can be completed is. A command that was killed so late that this is all that is left, and
    is given again, does not begin the same once more.

    :param is_same: whether a generation is what the command asks for.
    :raises InputError: something else is to be made first.
    :raises OutputError: somebody else has just begun a generation.
    :raises StillRunning: processes of the run do not leave.
    """
    from batchgen.dataset import finalize_run
    from batchgen.run import overtaken

    was_complete = run.directory.complete()
    is_complete = finalize_run(run)
    if not was_complete and run.plan.later and is_same(run.plan.later[-1]):
        return True
    if (begun := run.directory.last_generation()) > run.plan.last_generation:
        raise overtaken(run.directory, begun)
    if not is_complete:
        resume = shell_command("batchgen", "resume", run.directory.root)
        raise InputError(
            f"{run.directory.root} is not complete, and what is planned comes first. Go on with: "
            f"{resume}"
        )
    _wait_until_left(run)
    return False


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
