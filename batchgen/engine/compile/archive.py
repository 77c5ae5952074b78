"""A folder of compiled code as one archive file.

    {"batchgen-compile": 1, "key": "…", "sha256": "…"}     the first line
    a tar of plain files                                    what the SHA-256 is of

Compiled code runs with the user's rights. An archive is therefore refused, with the reason, if it
belongs to another user, if others can write to it, if its bytes do not have the SHA-256 of its
first line, if it was made for another key, or if it holds anything but plain files of its folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from batchgen import durable
from batchgen.engine.trusted_files import foreign
from batchgen.errors import JobError

_FORMAT = 1
_CHUNK = 1 << 20
# Files with these endings belong to processes at work.
_LEFT_OUT = {".lock", ".tmp"}


def write_archive(folder: Path, key: str, archive: Path) -> str:
    """Publish the folder's files as an archive, unless there is one of that name already.

    :returns: the SHA-256 of the archive that has the name now.
    :raises OSError: no space, no right to write, or a file system without hard links.
    """
    with tempfile.TemporaryFile() as body:
        _pack(folder, body)
        body.seek(0)
        sha256 = hashlib.file_digest(body, "sha256").hexdigest()
        body.seek(0)
        head = json.dumps({"batchgen-compile": _FORMAT, "key": key, "sha256": sha256})
        chunks = iter(lambda: body.read(_CHUNK), b"")
        if durable.create(archive, itertools.chain([head.encode() + b"\n"], chunks)):
            return sha256
    with _checked(archive, key) as (_, sha256):
        return sha256


def unpack_archive(archive: Path, key: str, folder: Path) -> str:
    """Put the archive's files into an empty folder. Everything is checked before a file is written.

    :returns: the archive's SHA-256.
    :raises JobError: the archive is not to be trusted; the message says why.
    """
    with _checked(archive, key) as (file, sha256):
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = tar.getmembers()
                _check_members(archive, members)
                for member in members:
                    source, path = tar.extractfile(member), folder / member.name
                    assert source is not None, "a plain file"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(source.read())
        except tarfile.TarError as error:
            raise _refused(archive, f"is no tar archive after its first line ({error})") from None
        return sha256


def _pack(folder: Path, body: IO[bytes]) -> None:
    """Write the folder's files as a tar. The same files give the same bytes."""
    with tarfile.open(fileobj=body, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file() or path.suffix in _LEFT_OUT:
                continue
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            with path.open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


@contextlib.contextmanager
def _checked(archive: Path, key: str) -> Iterator[tuple[IO[bytes], str]]:
    """The archive, open at the beginning of its tar, and its SHA-256. Only the tar is unchecked."""
    try:
        # The name is used only here: whatever is checked below is what will be read.
        file = os.fdopen(os.open(archive, os.O_RDONLY | os.O_NOFOLLOW), "rb")
    except OSError as error:
        raise _refused(archive, f"cannot be opened ({error.strerror})") from None
    with file:
        if why := foreign(os.fstat(file.fileno())):
            raise _refused(archive, why)
        sha256 = _promised_sha256(archive, key, file.readline(_CHUNK))
        begin = file.tell()
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise _refused(archive, "is damaged: its SHA-256 is not the one in its first line")
        file.seek(begin)
        yield file, sha256


def _promised_sha256(archive: Path, key: str, line: bytes) -> str:
    """The SHA-256 in the first line."""
    try:
        head = json.loads(line)
        kind, found, sha256 = head["batchgen-compile"], head["key"], head["sha256"]
    except (ValueError, KeyError, TypeError):
        raise _refused(archive, "does not begin as an archive of compiled code") from None
    if kind != _FORMAT or found != key:
        why = f"is foreign: it holds code for key {found} (format {kind}), not for {key}"
        raise _refused(archive, why)
    return str(sha256)


def _check_members(archive: Path, members: list[tarfile.TarInfo]) -> None:
    seen = set()
    for member in members:
        path = PurePosixPath(member.name)
        if not member.isreg() or path.is_absolute() or ".." in path.parts or path in seen:
            why = f"holds {member.name!r}: no plain file inside its folder, or a name used twice"
            raise _refused(archive, why)
        seen.add(path)


def _refused(archive: Path, why: str) -> JobError:
    return JobError(
        f"{archive} {why}. It is compiled code, which would run with your rights, so it is "
        "refused. Find out how this happened, then remove the file: the code is compiled anew."
    )
