"""A file of the dataset, its hashes, and the check that it is still what was committed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import DamagedRun, shell_command
from batchgen.regular_file import open_regular, read_regular
from batchgen.run import RunDirectory
from batchgen.shard import Done, remake

# Beside the shards, in the order in which readers get them: who sees the index sees everything.
SUMMARIES = ("statistics.json", "contact.jpg", "report.html", "README.md", "index.json")


@dataclass(frozen=True, slots=True)
class Item:
    """A file that is to be at the destination."""

    # Its path below the dataset, as data/000000.tar.
    name: str
    path: Path
    bytes: int
    sha256: str
    # What to do if the file is no longer that.
    remedy: str

    def check(self) -> None:
        """Read the file, and compare it with its hash.

        :raises DamagedRun: it is another.
        """
        with open_regular(self.path) as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != self.sha256:
                raise DamagedRun(
                    f"{self.path}: is not the file that was committed, and is not pushed. "
                    f"{self.remedy}"
                )

    def md5(self) -> str:
        """The MD5 of the file, hexadecimal."""
        with open_regular(self.path) as file:
            return hashlib.file_digest(file, _md5).hexdigest()

    def md5_of_parts(self, part_bytes: int) -> str:
        """The MD5 of the MD5s of its parts, and their number, as S3 names what came in parts."""
        parts = []
        with open_regular(self.path) as file:
            while part := _md5_of(file.read(part_bytes)):
                parts.append(part)
        return f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"


def _md5(data: bytes = b"") -> hashlib._Hash:
    return hashlib.md5(data, usedforsecurity=False)


def _md5_of(part: bytes) -> bytes:
    return _md5(part).digest() if part else b""


def shard_items(directory: RunDirectory, done: Done) -> list[Item]:
    """The files of a published shard: the tar, then the records that name it.

    :raises DamagedRun: a file is gone.
    """
    names = [target for _, target in done.names(directory)]
    if gone := [path for path in names if not path.is_file()]:
        raise DamagedRun(f"{gone[0]} was committed and is missing. {remake(directory)}")
    hashes = {"data": done.tar_sha256, "metadata": done.metadata_sha256}
    remedy = remake(directory, deep=True)
    return [
        Item(_name(directory, path), path, path.stat().st_size, hashes[path.parent.name], remedy)
        for path in names
    ]


def summary_items(directory: RunDirectory) -> list[Item]:
    """The card, the index and what belongs to them, as they are now."""
    again = shell_command("batchgen", "push", directory.root, "URL")
    paths = [directory.root / name for name in SUMMARIES]
    there = [(path, read_regular(path)) for path in paths if path.is_file()]
    remedy = f"Somebody is writing it; try again: {again}"
    return [
        Item(path.name, path, len(data), hashlib.sha256(data).hexdigest(), remedy)
        for path, data in there
    ]


def total_bytes(groups: Sequence[Sequence[Item]]) -> int:
    """Of all files together."""
    return sum(item.bytes for group in groups for item in group)


def _name(directory: RunDirectory, path: Path) -> str:
    return path.relative_to(directory.root).as_posix()
