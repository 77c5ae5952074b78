"""Generations of a run: its later plans, each begun when all before it is complete.

A generation is its file `plan-0001.json`, made by one link: of two who begin one at once, one
begins it and the other is told. From then on the run is incomplete, until its index names the
generation. Published files stay as they are.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from batchgen import durable
from batchgen.checked_json import checksum_of
from batchgen.errors import InputError, OutputError, shell_command
from batchgen.manifest import image_shapes
from batchgen.planning import (
    AddedRows,
    Generation,
    KeyList,
    NewPictures,
    Plan,
    append_rows,
    cut_list,
    decode_generation,
    encode_generation,
    identify_run,
    later_shard_size,
    locate_keys,
    plan_further,
    refuse_change,
    rest_of_sample,
    software,
)
from batchgen.regular_file import read_regular
from batchgen.run.directory import RunDirectory
from batchgen.run.key_lists import read_list, reseeded_by, write_list
from batchgen.run.plan_files import read_plan_file
from batchgen.run.run import Run

Kind = Literal["retry", "remake", "extend", "rest"]
Ints = npt.NDArray[np.int64]


def begin_again(run: Run, kind: Kind, keys: Ints, shards: Ints, *, new_seeds: bool = False) -> Run:
    """Plan that pictures are made again, as the run's next generation.

    :param run: complete.
    :param keys: of the pictures, in ascending order.
    :param shards: with their present records.
    :param new_seeds: whether each gets another seed than it has.
    :return: the run with that generation.
    :raises OutputError: somebody else has just begun one.
    :raises PlanChanged: its pictures would not be made as they were.
    """
    plan, batch_size = run.plan, run.job.engine.batch_size
    files = [source.path for source in plan.sources]
    places = locate_keys(image_shapes(files, run.job.sampling, run.job.manifest.columns), keys)
    cut, groups = cut_list(places, later_shard_size(plan, run.job, len(keys)), batch_size)
    share = len(keys) / plan.pictures
    number = plan.last_generation + 1
    lists = [one.listed for one in plan.later if one.listed]
    present = reseeded_by(run.directory, lists, keys)
    reseeded = np.full(len(keys), number) if new_seeds else present
    return _begin(
        run,
        kind,
        write=lambda: write_list(run.directory, number, places, shards, reseeded),
        new_seeds=new_seeds,
        pictures=len(keys),
        groups=groups,
        shards=cut,
        seconds=plan.seconds * share,
        bytes=round(plan.bytes * share),
    )


def begin_rest_of_sample(run: Run, fits: Callable[[Plan], None]) -> Run:
    """Plan the pictures that a sample has left; parameters and errors as of `begin_further`."""
    plan, directory, number = run.plan, run.directory, run.plan.last_generation + 1
    assert plan.listed, "only a sample has its list in the first plan"
    made = read_list(directory, plan.listed)["index"].to_numpy()
    new, places = rest_of_sample(plan, run.job, run.checkpoint, made)
    nowhere, unchanged = np.full(new.pictures, -1), np.zeros(new.pictures, np.int64)
    return _begin(
        run,
        "rest",
        fits,
        write=lambda: write_list(directory, number, places, nowhere, unchanged),
        **_of(new),
    )


def begin_further(
    run: Run, more: Sequence[str | Path], fits: Callable[[Plan], None] = lambda _: None
) -> Run:
    """Plan all pictures that a run has left, as its next generation.

    :param run: complete.
    :param more: files, globs or folders with rows that are appended to the manifest; none: the run
        was a trial.
    :param fits: refuses the plan that there would be, if the devices cannot make it.
    :return: the run with that generation.
    :raises ManifestError: the rows break the contract, or do not go with those that there are.
    :raises InputError: the same rows were appended before.
    :raises OutputError: somebody else has just begun one.
    :raises PlanChanged: its pictures would not be made as they were.
    """
    plan, directory, number = run.plan, run.directory, run.plan.last_generation + 1
    parquet = directory.inner / f"manifest-{number:04d}.{uuid.uuid4().hex[:12]}.parquet"
    try:
        added = append_rows(plan, run.job, run.checkpoint, more, parquet) if more else None
        if added:
            _refuse_same_rows(run, added)
        sources = (*plan.sources, *(added.sources if added else ()))
        files = [source.path for source in sources]
        new = plan_further(plan, run.job, run.checkpoint, files)
        kind: Kind = "extend" if added else "rest"
        return _begin(run, kind, fits, added=added, **_of(new))
    finally:
        # Ctrl-C may come when the plan has its name already: then the rows are the run's.
        if not _names(directory.generation(number), parquet):
            parquet.unlink(missing_ok=True)
            shutil.rmtree(parquet.with_suffix(""), ignore_errors=True)  # fetched from URLs


def _names(plan: Path, parquet: Path) -> bool:
    """Whether a plan's manifest is a converted table, or in the folder of its name."""
    return plan.exists() and parquet.stem.encode() in read_regular(plan)


def _refuse_same_rows(run: Run, added: AddedRows) -> None:
    """Check that rows were not appended before, whatever their files are called.

    :raises InputError: they were.
    """
    for one in run.plan.later:
        if one.added and one.added.content == added.content:
            raise InputError(
                f"{run.directory.root}: generation {one.generation} has appended these rows "
                "already. For more pictures of them, give rows with other seeds or ids"
            )


def _of(new: NewPictures) -> dict[str, Any]:
    """The fields of a generation that makes new pictures."""
    return {
        "shapes": new.shapes,
        "pictures": new.pictures,
        "groups": new.groups,
        "shards": new.shards,
        "seconds": new.seconds,
        "bytes": new.bytes,
    }


def _begin(
    run: Run,
    kind: Kind,
    fits: Callable[[Plan], None] = lambda _: None,
    *,
    write: Callable[[], KeyList] | None = None,
    **values: Any,
) -> Run:
    """Make a generation the run's next.

    :param write: writes the list of its pictures, if it has one.
    :param values: of a `Generation`; the others are known.
    """
    directory, number = run.directory, run.plan.last_generation + 1
    generation = Generation(
        run=run.plan.run,
        generation=number,
        parent=checksum_of(read_plan_file(directory, number - 1)),
        kind=kind,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        first_shard=len(run.plan.shards),
        software=software(),
        **values,
    )
    _refuse_other_pictures(run)
    fits(run.plan.with_generation(generation))
    if write:  # last, so that what is refused leaves nothing
        generation = generation.model_copy(update={"listed": write()})
    plan = run.plan.with_generation(generation)
    directory.make_folders(len(plan.shards))
    path = directory.generation(number)
    if not durable.create(path, encode_generation(generation)):
        theirs = decode_generation(read_regular(path), path)
        if generation.listed and generation.listed != theirs.listed:
            durable.remove(directory.inner / generation.listed.file)
        raise overtaken(directory, number)
    return replace(run, plan=plan)


def _refuse_other_pictures(run: Run) -> None:
    """Check that pictures would be made as they were. What is complete is opened without that.

    :raises PlanChanged: they would not.
    """
    weights = run.checkpoint.inputs if run.checkpoint else {}
    identity = identify_run(run.job, run.plan.identity["manifest"], weights)
    refuse_change(run.plan, identity, str(run.directory.root))


def overtaken(directory: RunDirectory, number: int) -> OutputError:
    """What is told of a command that another one was quicker than.

    :param number: the generation that the other has begun.
    """
    look = shell_command("batchgen", "status", directory.root)
    return OutputError(
        f"{directory.root}: another command has just begun generation {number} of this run. Look "
        f"at it with: {look}"
    )
