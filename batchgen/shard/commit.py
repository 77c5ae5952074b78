"""batchgen.shard.commit."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from batchgen import durable
from batchgen.errors import DamagedRun
from batchgen.run import RunDirectory

SHARD_NAME = re.compile(r"^(\d{6,})\.(tar|parquet|json)$")


@dataclass(frozen=True, slots=True)
class Done:
    """A committed shard: which attempt won, and what is in it."""

    shard: int
    attempt: int
    generation: int
    first_key: int
    ok: int
    failed: int
    failures: dict[str, int]  # cause → pictures
    tar: str | None  # name under data/; None where not one picture is good
    tar_bytes: int
    tar_sha256: str
    tar_md5: str
    metadata_sha256: str
    group_s: float  # seconds of the replica's device: text, denoise and decode of all groups
    finished_at: float  # seconds since the epoch

    def encode(self) -> bytes:
        """JSON for `done/N.json`."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


def entries(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir()) if folder.is_dir() else ()


def shards_in(folder: Path) -> Iterator[int]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := SHARD_NAME.match(path.name):
            yield int(match.group(1))


def committed_shards(directory: RunDirectory) -> set[int]:
    """Shards with a commit; listings only, nothing is opened."""
    return {shard for bucket in entries(directory.inner / "done") for shard in shards_in(bucket)}


def published_shards(directory: RunDirectory) -> set[int]:
    """Shards whose metadata, the last name of the roll-forward, is there."""
    return set(shards_in(directory.root / "metadata"))


def visible_shards(directory: RunDirectory) -> set[int]:
    """Shards of which readers can see the tar or the metadata."""
    return set(shards_in(directory.root / "data")) | published_shards(directory)


def read_done(directory: RunDirectory, shard: int) -> Done:
    """The commit of a shard.

    :raises DamagedRun: it is not what `commit` wrote.
    """
    path = directory.done(shard)
    try:
        return Done(**json.loads(path.read_bytes()))
    except (ValueError, TypeError) as error:
        names = f"{directory.data(shard)} and {directory.metadata(shard)}"
        raise DamagedRun(
            f"{path}: not a commit: {error}. Move it, {names} away and resume: the shard is made again."
        ) from None


def commit_shard(directory: RunDirectory, done: Done) -> bool:
    """Publish an attempt whose tar, parquet and json are synced; False if another attempt has won."""
    try:
        won = durable.link(
            directory.partial(done.shard, done.attempt, "json"), directory.done(done.shard)
        )
    except FileNotFoundError:  # the winner's roll-forward has swept our files away
        won = False
    if not won and not directory.done(done.shard).exists():
        raise DamagedRun(
            f"{directory.partial(done.shard, done.attempt, 'json')} is gone, and shard {done.shard} was not committed by another"
        )
    roll_forward(directory, done.shard)
    return won


def roll_forward(directory: RunDirectory, shard: int) -> None:
    """Give the committed attempt's files their published names, then remove every attempt's own."""
    durable.sync_folder(
        directory.done(shard).parent
    )  # whoever committed may have died before its link was on the disk
    done = read_done(directory, shard)
    if done.tar is not None:
        _give_name(directory, directory.partial(shard, done.attempt, "tar"), directory.data(shard))
    _give_name(
        directory, directory.partial(shard, done.attempt, "parquet"), directory.metadata(shard)
    )
    sweep(directory, shard)


def _give_name(directory: RunDirectory, source: Path, target: Path) -> None:
    try:
        mine = durable.link(source, target)
    except FileNotFoundError:  # somebody finished the roll-forward before us
        mine = target.exists()
    if not mine:
        wrong = (
            "is not the file that was committed"
            if target.exists()
            else "was committed and is missing"
        )
        raise DamagedRun(
            f"{target} {wrong}. To be told what to do about it: batchgen verify {directory.root}"
        )


def sweep(directory: RunDirectory, shard: int) -> None:
    """Remove what the attempts of a published shard left behind."""
    left = list(directory._bucket("partial", shard).glob(f"{shard:06d}.*"))
    for folder in (directory.root / "data", directory.root / "metadata") if left else ():
        durable.sync_folder(
            folder
        )  # as above: nothing is removed before the published names are on the disk
    for path in left:
        durable.remove(path)
