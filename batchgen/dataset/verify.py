"""Verify a run: compare its files with its plan, its commits and its manifest (P1, P8).

The plan must be what the manifest gives. Every published shard must have the counts of its commit,
one record a planned picture, from the row that is planned for it, and one sample a good record, in
plan order. Card, statistics, report and index must say what the records give (`summaries.py`). A
deep check also hashes every byte and every picture, decodes it, and compares each record with its
row of the manifest.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from batchgen.dataset.open_picture import open_picture
from batchgen.dataset.summaries import anew, wrong_summaries
from batchgen.dataset.verify_lists import expected_places, list_problems, misplaced_records
from batchgen.errors import BatchgenError, DamagedRun, PlanChanged, counted, shell_command
from batchgen.manifest import check_unchanged
from batchgen.planning import Shard, identify_run, recount, refuse_change
from batchgen.regular_file import open_regular, read_regular
from batchgen.run import Run, refuse_missing
from batchgen.shard import (
    Done,
    committed_shards,
    count_pictures,
    missing_names,
    read_done,
    read_metadata,
    read_shard,
    strange_files,
    visible_shards,
)

# What a record shares with its row of the manifest, whatever the model makes of it.
_OF_THE_ROW = ("row", "image", "id", "prompt", "seed", "width", "height", "steps")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with a shard, or with the run."""

    # None: the run as a whole.
    shard: int | None
    # Empty if it is sound.
    problems: list[str]


def manifest_trouble(run: Run) -> str:
    """Why the run cannot be compared with its manifest; "" if it can."""
    try:
        refuse_missing(run.directory, run.plan)
        check_unchanged(run.plan.sources)
    except PlanChanged as error:
        return str(error)
    return ""


def verify_run(run: Run, *, deep: bool, manifest: bool) -> Iterator[Finding]:
    """What is wrong with the run and with each shard that is committed or that readers can see.

    A shard that is committed and not published yet is left out.

    :param deep: also compare hashes, decode pictures, and compare records with rows.
    :param manifest: whether the manifest can be compared (`manifest_trouble`).
    """
    yield Finding(None, list(_run_problems(run, manifest=manifest)))
    directory, planned = run.directory, set(range(len(run.plan.shards)))
    committed = committed_shards(directory)
    promised = planned if directory.complete() else set()
    for shard in sorted((committed | visible_shards(directory) | promised) & planned):
        if shard not in committed:
            yield Finding(shard, [f"{directory.done(shard)} is missing"])
            continue
        try:
            done = read_done(directory, shard)
        except DamagedRun as error:
            yield Finding(shard, [str(error)])
            continue
        published = all(target.is_file() for _, target in done.names(directory))
        if published or missing_names(directory, done):
            compare = deep and manifest
            try:
                problems = list(_shard_problems(run, shard, done, deep=deep, manifest=compare))
            except OSError as error:  # a folder in the place of a file, or one that may not be read
                problems = [f"{error.filename}: cannot be read: {error.strerror}"]
            yield Finding(shard, problems)


def _run_problems(run: Run, *, manifest: bool) -> Iterator[str]:
    directory, plan = run.directory, run.plan
    try:
        job = identify_run(run.job, plan.identity["manifest"], plan.identity["weights"])
        refuse_change(plan, job, str(directory.job), finished=True)
    except PlanChanged as error:
        yield str(error)
    if manifest and (wrong := recount(plan, run.job)):
        yield f"{directory.plan}: {wrong}. Its pictures are not those of the manifest"
    yield from list_problems(run, manifest=manifest)
    try:
        tarless = count_pictures(directory).tarless
    except DamagedRun:  # is told with its shard
        tarless = set()
    unfinished = set(range(len(plan.shards))) - committed_shards(directory)
    own = {name(shard) for name in (directory.data, directory.metadata) for shard in unfinished}
    for path in strange_files(directory, len(plan.shards), tarless):
        if path not in own:  # those are told with their shard
            away = shell_command("mv", path, "ANOTHER_FOLDER")
            yield f"{path}: was not published by this run. Move it away: {away}"
    for path, wrong in wrong_summaries(run).items():
        yield f"{path}: {wrong}. {anew(directory)}"


def _shard_problems(
    run: Run, number: int, done: Done, *, deep: bool, manifest: bool
) -> Iterator[str]:
    directory = run.directory
    metadata, tar = directory.metadata(number), directory.data(number)
    if gone := missing_names(directory, done):
        yield from (f"{path} is missing" for path in gone)
        return
    content = read_regular(metadata)
    if hashlib.sha256(content).hexdigest() != done.metadata_sha256:
        yield f"{metadata}: its hash is not the committed one"
        return
    names = ["index", "outcome", "sha256", *_OF_THE_ROW]
    table = read_metadata(metadata, names, content=content)
    keys, good = table["index"].to_pylist(), _good(table)
    problems: list[str] = []
    with suppress(DamagedRun):  # of the list, which is told with the run
        listed = expected_places(run, number)
        problems += _count_problems(run.plan.shards[number], done, keys, len(good), listed)
        if not problems:
            problems += _row_problems(run, number, table, listed, manifest=manifest)
    yield from (f"{metadata}: {problem}" for problem in problems)
    if done.tar is None:
        return
    if tar.stat().st_size != done.tar_bytes:
        yield f"{tar}: {counted(tar.stat().st_size, 'byte')}; committed were {done.tar_bytes:,}"
    else:
        yield from _tar_problems(tar, good, done, deep=deep)


def _good(table: pa.Table) -> dict[str, str | None]:
    """Key → SHA-256 of the image, of good records; older runs have recorded none."""
    known = "sha256" in table.column_names
    hashes = table["sha256"].to_pylist() if known else [None] * len(table)
    rows = zip(table["index"].to_pylist(), table["outcome"].to_pylist(), hashes, strict=True)
    return {f"{key:09d}": sha256 for key, outcome, sha256 in rows if outcome == "ok"}


def _count_problems(
    shard: Shard, done: Done, keys: list[int], good: int, listed: pa.Table | None
) -> Iterator[str]:
    first = shard.first_key
    planned = listed["index"].to_pylist() if listed else range(first, first + shard.pictures)
    if sorted(keys) != list(planned):
        counts = f"{counted(len(keys), 'record')}, {counted(len(set(keys)), 'key')}"
        first, last = planned[0], planned[-1]
        those = f"{len(planned)} of {first}…{last}" if listed else f"{first}…{last}"
        yield f"{counts}; planned are {those}, each once"
    failed = len(keys) - good
    if (good, failed) != (done.ok, done.failed):
        yield f"{good} good and {failed} failed; committed were {done.ok} and {done.failed}"


def _row_problems(
    run: Run, number: int, table: pa.Table, listed: pa.Table | None, *, manifest: bool
) -> Iterator[str]:
    """Records whose row is not the planned one, or that differ from their row of the manifest."""
    table = table.sort_by("index")
    records = table.to_pylist()
    if listed is None:
        misplaced = [*_out_of_order(run, number, records)]
    else:
        misplaced = [*misplaced_records(table, listed)]
    yield from misplaced
    if misplaced or not manifest:
        return
    try:
        groups, _ = read_shard(run, number)
    except BatchgenError as error:
        yield str(error)
        return
    pictures = {picture.key: picture for group in groups for picture in group}
    for record in records:
        for name in _OF_THE_ROW:
            wanted = getattr(pictures[record["index"]], name)
            if record[name] != wanted:
                what = f"picture {record['index']:09d} has {name} {record[name]!r}"
                yield f"{what}; its row of the manifest says {wanted!r}"
                return


def _out_of_order(run: Run, number: int, records: list[dict[str, Any]]) -> Iterator[str]:
    """Records of consecutive pictures whose rows do not follow each other as planned."""
    shards, part = run.plan.shards, run.plan.part_of(number)
    after = shards[number + 1] if number + 1 < part.end_shard else None
    end = (after or part.end).row, (after or part.end).skip
    possible = [(shards[number].row, shards[number].skip)]
    for record in records:
        row, image = record["row"], record["image"]
        if (row, image) not in possible:
            planned = " or ".join(f"row {row}, image {image}" for row, image in possible)
            yield f"picture {record['index']:09d} is of row {row}, image {image}; not of {planned}"
            return
        possible = [(row, image + 1), (row + 1, 0)]
    if end not in possible:
        yield f"the last picture is of row {row}; the next shard begins in row {end[0]}"


def _tar_problems(
    path: Path, good: Mapping[str, str | None], done: Done, *, deep: bool
) -> Iterator[str]:
    if deep:
        with open_regular(path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != done.tar_sha256:
                yield f"{path}: its hash is not the committed one"
                return
    keys: list[str] = []
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind == "json":
                    keys.append(key)
                elif kind != "txt" and deep:
                    yield from _picture_problems(tar, member, good.get(key))
    except (tarfile.TarError, OSError, ValueError) as error:
        yield f"{path}: not readable as tar: {error}"
    if keys != list(good):
        samples, records = counted(len(keys), "sample"), counted(len(good), "good record")
        yield f"{path}: {samples}, not the {records} in their order"


def _picture_problems(
    tar: tarfile.TarFile, member: tarfile.TarInfo, sha256: str | None
) -> Iterator[str]:
    stream = tar.extractfile(member)
    content = stream.read() if stream else b""
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        yield f"{member.name} is not the picture of its record: its hash is another"
    try:
        with open_picture(content) as image:
            image.load()
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        yield f"{member.name} does not decode: {error}"
