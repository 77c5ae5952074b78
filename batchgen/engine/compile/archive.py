"""A folder of code as one file: checksummed, published by one link, and opened only if nobody but the user can have written it.

    {"batchgen-compile": 1, "key": "…", "sha256": "…"}     the first line
    a tar of plain files                                    what the SHA-256 is of

The code will run with the user's rights. So an archive is refused, with the reason, if it is another user's, if others can write to it, if
its bytes do not hash to what the first line says, if it was made for another key, or if it names a place outside its folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import uuid
from pathlib import Path, PurePosixPath
from typing import IO

from batchgen import durable
from batchgen.engine.trusted_files import foreign
from batchgen.errors import JobError

_FORMAT = 1
_CHUNK = 1 << 20
_LEFT_OUT = {".lock", ".tmp"}  # of processes at work


def write_archive(folder: Path, key: str, archive: Path) -> str:
    """Give the folder's files the archive's name, unless it is taken; returns the SHA-256 of what has the name.

    :raises OSError: quota, rights, a file system without hard links.
    """
    temporary = archive.with_name(f".{archive.name}.{uuid.uuid4().hex}.tmp")
    try:
        with tempfile.TemporaryFile() as body:
            _pack(folder, body)
            sha256 = _hash(body, 0)
            with os.fdopen(
                os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb", buffering=0
            ) as file:
                durable.append(
                    file,
                    json.dumps({"batchgen-compile": _FORMAT, "key": key, "sha256": sha256}).encode()
                    + b"\n",
                )
                while chunk := body.read(_CHUNK):
                    durable.append(file, chunk)
                durable.sync(file)
        if durable.link(temporary, archive):
            return sha256
    finally:
        temporary.unlink(missing_ok=True)
    theirs, sha256 = _open(archive, key)
    theirs.close()
    return sha256


def unpack_archive(archive: Path, key: str, folder: Path) -> str:
    """Put the archive's files into the folder, which is empty; returns the archive's SHA-256. Nothing is written before all is checked.

    :raises JobError: it is not to be trusted; the message says why.
    """
    file, sha256 = _open(archive, key)
    with file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                members = tar.getmembers()
                _check(archive, members)
                for member in members:
                    path = folder / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    source = tar.extractfile(member)
                    assert source is not None, "a plain file"
                    with path.open("xb") as target:
                        shutil.copyfileobj(source, target)
        except tarfile.TarError as error:
            raise _refused(archive, f"is no tar archive after its first line ({error})") from None
    return sha256


def _pack(folder: Path, body: IO[bytes]) -> None:
    """The same bytes for the same files."""
    with tarfile.open(fileobj=body, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_symlink() or not path.is_file() or path.suffix in _LEFT_OUT:
                continue
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            with path.open("rb") as file:
                member.size = os.fstat(file.fileno()).st_size
                tar.addfile(member, file)


def _hash(file: IO[bytes], begin: int) -> str:
    """SHA-256 from there to the end; the file then stands at `begin`."""
    file.seek(begin)
    hashed = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        hashed.update(chunk)
    file.seek(begin)
    return hashed.hexdigest()


def _open(archive: Path, key: str) -> tuple[IO[bytes], str]:
    """The archive at the beginning of its tar, and its SHA-256; all is checked that can be without looking into the tar."""
    try:
        file = os.fdopen(
            os.open(archive, os.O_RDONLY | os.O_NOFOLLOW), "rb"
        )  # what is checked is what is read: its name is not used again
    except OSError as error:
        raise _refused(archive, f"cannot be opened ({error.strerror})") from None
    try:
        if why := foreign(os.fstat(file.fileno())):
            raise _refused(archive, why)
        sha256 = _promise(archive, key, file.readline(_CHUNK))
        if _hash(file, file.tell()) != sha256:
            raise _refused(
                archive, "is damaged: its bytes do not hash to the SHA-256 in its first line"
            )
    except BaseException:
        file.close()
        raise
    return file, sha256


def _promise(archive: Path, key: str, line: bytes) -> str:
    """The SHA-256 in the first line."""
    try:
        head = json.loads(line)
        kind, found, sha256 = head["batchgen-compile"], head["key"], head["sha256"]
    except (ValueError, KeyError, TypeError):
        raise _refused(archive, "does not begin as an archive of compiled code") from None
    if kind != _FORMAT or found != key:
        raise _refused(
            archive, f"is foreign: it holds code for key {found} (format {kind}), not for {key}"
        )
    return str(sha256)


def _check(archive: Path, members: list[tarfile.TarInfo]) -> None:
    seen = set()
    for member in members:
        path = PurePosixPath(member.name)
        if not member.isreg() or path.is_absolute() or ".." in path.parts or path in seen:
            raise _refused(
                archive,
                f"holds {member.name!r}, which is no plain file inside its folder, or is there twice",
            )
        seen.add(path)


def _refused(archive: Path, why: str) -> JobError:
    return JobError(
        f"{archive} {why}. It is compiled code, which would run with your rights, so it is refused. "
        "If you do not know how that came about, find out; then remove the file, and it is compiled anew."
    )
