"""Verify a run: compare hashes, counts and keys of its files with its plan (P1, P8).

Every published shard must have the counts of its commit, one record a planned picture, and one
sample a good record, in plan order. A deep check also hashes every byte and decodes every
picture.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.dataset.open_picture import open_picture
from batchgen.errors import DamagedRun
from batchgen.planning import Plan, Shard
from batchgen.run import RunDirectory
from batchgen.shard import Done, committed_shards, read_done, visible_shards


def verify_run(
    directory: RunDirectory, plan: Plan, *, deep: bool
) -> Iterator[tuple[int, list[str]]]:
    """What is wrong with each shard that is committed or that readers can see.

    :param deep: also compare hashes and decode pictures.
    :return: a shard's number and its problems; none if it is sound.
    """
    committed = committed_shards(directory)
    promised = range(len(plan.shards) if directory.complete() else 0)
    for shard in sorted(committed | visible_shards(directory) | set(promised)):
        if shard >= len(plan.shards):
            yield shard, ["is not in the plan"]
        elif shard not in committed:
            yield shard, [f"{directory.done(shard)} is missing"]
        else:
            yield shard, list(_problems(directory, plan.shards[shard], shard, deep=deep))


def _problems(directory: RunDirectory, shard: Shard, number: int, *, deep: bool) -> Iterator[str]:
    metadata, tar = directory.metadata(number), directory.data(number)
    try:
        done = read_done(directory, number)
    except DamagedRun as error:
        yield str(error)
        return
    if not metadata.exists() or (done.tar is not None and not tar.exists()):
        yield f"{metadata if not metadata.exists() else tar} is missing"
        return
    if deep:
        yield from _hash_problems(metadata, done.metadata_sha256)
    try:
        table = pq.read_table(metadata, columns=["key", "outcome"])
    except (pa.ArrowException, OSError) as error:
        yield f"{metadata}: cannot be read: {error}"
        return
    keys, outcomes = table["key"].to_pylist(), table["outcome"].to_pylist()
    good = [f"{key:09d}" for key, outcome in zip(keys, outcomes, strict=True) if outcome == "ok"]
    for problem in _count_problems(shard, done, keys, len(good)):
        yield f"{metadata}: {problem}"
    if done.tar is None:
        return
    if tar.stat().st_size != done.tar_bytes:
        yield f"{tar}: {tar.stat().st_size} bytes; committed were {done.tar_bytes}"
    else:
        yield from _tar_problems(tar, good, done, deep=deep)


def _hash_problems(path: Path, committed: str) -> Iterator[str]:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != committed:
            yield f"{path}: its hash is not the committed one"


def _count_problems(shard: Shard, done: Done, keys: list[int], good: int) -> Iterator[str]:
    first, last = shard.first_key, shard.first_key + shard.pictures - 1
    if sorted(keys) != list(range(first, last + 1)):
        counts = f"{len(keys)} records, {len(set(keys))} keys"
        yield f"{counts}; planned are {first}…{last}, each once"
    failed = len(keys) - good
    if (good, failed) != (done.ok, done.failed):
        yield f"{good} good and {failed} failed; committed were {done.ok} and {done.failed}"


def _tar_problems(path: Path, good: list[str], done: Done, *, deep: bool) -> Iterator[str]:
    if deep:
        yield from _hash_problems(path, done.tar_sha256)
    keys: list[str] = []
    try:
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if kind == "json":
                    keys.append(key)
                elif kind != "txt" and deep:
                    yield from _picture_problems(tar, member)
    except (tarfile.TarError, OSError) as error:
        yield f"{path}: not readable as tar: {error}"
    if keys != good:
        yield f"{path}: {len(keys)} samples, not the {len(good)} good records in their order"


def _picture_problems(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Iterator[str]:
    stream = tar.extractfile(member)
    try:
        with open_picture(stream.read() if stream else b"") as image:
            image.load()
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken PNG
        yield f"{member.name} does not decode: {error}"
