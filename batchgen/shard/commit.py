"""Commit a shard with one link; complete the commit of any attempt.

An attempt first syncs its tar, Parquet and JSON files under names that carry its number. Then it
links the JSON file to `done/N.json`. Only one attempt's link succeeds, and this attempt has won.

The *roll-forward* gives the winner's tar and metadata their published names and then removes the
files of every attempt. Any process may do it, any number of times: `done/N.json` names the
attempt, and nothing is removed before both published names are on the disk. The tar is linked
before the metadata, so whoever sees `metadata/N.parquet` can open `data/N.tar`.
"""

from __future__ import annotations

import filecmp
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

from batchgen import durable
from batchgen.checked_json import parse, seal, unseal
from batchgen.errors import DamagedRun, shell_command
from batchgen.regular_file import open_regular, read_regular
from batchgen.run import RunDirectory
from batchgen.shard.loss import Loss

_SHARD_FILE = re.compile(r"^(\d{6,})\.(tar|parquet|json)$")


@dataclass(frozen=True, slots=True)
class Done:
    """A committed shard: which attempt won, and what is in it."""

    shard: int
    attempt: int
    generation: int
    first_key: int
    ok: int
    failed: int
    # How many pictures failed, by cause.
    failures: dict[str, int]
    # The file's name under data/; None if the shard has no good picture.
    tar: str | None
    tar_bytes: int
    tar_sha256: str
    tar_md5: str
    metadata_sha256: str
    # Seconds that the replica's device spent on text, denoising and decoding, all groups together.
    group_s: float
    # Seconds since the epoch.
    finished_at: float
    # What audits of its pictures measured.
    loss: Loss = field(default_factory=Loss)

    def encode(self) -> bytes:
        """The JSON text of `done/N.json`."""
        return seal(asdict(self), indent=1) + b"\n"

    def names(self, directory: RunDirectory) -> list[tuple[Path, Path]]:
        """Every file of the shard: its name in the winning attempt, and its published name.

        The metadata is published last.
        """
        tar = directory.partial(self.shard, self.attempt, "tar"), directory.data(self.shard)
        parquet = directory.partial(self.shard, self.attempt, "parquet")
        metadata = parquet, directory.metadata(self.shard)
        return [metadata] if self.tar is None else [tar, metadata]


def committed_shards(directory: RunDirectory) -> set[int]:
    """Shards with a commit. Folders are listed, no file is opened."""
    return _shards_in(*(directory.inner / "done").glob("*"))


def published_shards(directory: RunDirectory) -> set[int]:
    """Shards whose metadata is published: the roll-forward gives this name last."""
    return files_in(directory.root / "metadata")


def visible_shards(directory: RunDirectory) -> set[int]:
    """Shards whose tar or metadata readers can see."""
    return _shards_in(directory.root / "data", directory.root / "metadata")


def files_in(folder: Path) -> set[int]:
    """Shards that have a file in a folder. The listing says what is one: none is looked at."""
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.is_file()]
    return {int(match[1]) for name in names if (match := _SHARD_FILE.match(name))}


def _shards_in(*folders: Path) -> set[int]:
    names = (path.name for folder in folders if folder.is_dir() for path in folder.iterdir())
    return {int(match[1]) for name in names if (match := _SHARD_FILE.match(name))}


def read_done(directory: RunDirectory, shard: int) -> Done:
    """The commit of a shard.

    :raises DamagedRun: the file is not a commit.
    """
    path = directory.done(shard)
    try:
        done = parse(Done, unseal(read_regular(path)))
        if done.shard == shard:
            return done
        wrong = f"it is the commit of shard {done.shard}"
    except FileNotFoundError:
        raise
    except OSError as error:
        wrong = str(error.strerror)
    except ValueError as error:
        wrong = str(error)
    raise DamagedRun(f"{path}: not a commit: {wrong}. {remake(directory)}")


def remake(directory: RunDirectory, *, deep: bool = False) -> str:
    """What to do about damaged or missing files of published shards.

    :param deep: whether only a deep check finds them.
    """
    how = ["--deep", "--repair"] if deep else ["--repair"]
    command = shell_command("batchgen", "verify", directory.root, *how)
    return f"To put such shards aside and open them again: {command}"


def commit_shard(directory: RunDirectory, done: Done) -> bool:
    """Commit an attempt whose files are synced, and publish the winner's files.

    :return: whether this attempt has won.
    :raises DamagedRun: the attempt's files are gone although no attempt has won.
    """
    source, target = directory.partial(done.shard, done.attempt, "json"), directory.done(done.shard)
    try:
        won = durable.link(source, target)
    except FileNotFoundError:  # the winner's roll-forward has removed this attempt's files
        won = False
    if not won and not target.exists():
        raise DamagedRun(
            f"{source} is gone, and shard {done.shard} was not committed by another attempt"
        )
    roll_forward(directory, done.shard)
    return won


def roll_forward(directory: RunDirectory, shard: int) -> None:
    """Publish the committed attempt's files, then remove the files of every attempt.

    :raises DamagedRun: a published name is missing or is another file's.
    """
    # The worker that committed may have died before its link was on the disk.
    durable.sync_folder(directory.done(shard).parent)
    done = read_done(directory, shard)
    for source, target in done.names(directory):
        _publish(directory, source, target)
    sweep(directory, shard)


def _publish(directory: RunDirectory, source: Path, target: Path) -> None:
    try:
        published = durable.link(source, target)
    except FileNotFoundError:  # another process has completed the roll-forward
        published = target.exists()
    if not published and target.exists() and filecmp.cmp(source, target, shallow=False):
        with open_regular(target) as file:  # another file of the same content: the run was copied
            durable.sync(file)
        published = True
    if not published:
        other = target.exists()
        wrong = "is not the file that was committed" if other else "was committed and is missing"
        raise DamagedRun(f"{target} {wrong}. {remake(directory)}")


def sweep(directory: RunDirectory, shard: int) -> None:
    """Remove the files that the attempts at a published shard have left."""
    left = directory.attempt_files(shard)
    if left:  # the process that published may have died before the names were on the disk
        durable.sync_folder(directory.root / "data")
        durable.sync_folder(directory.root / "metadata")
    for path in left:
        durable.remove(path)
