"""Identify the files of a manifest, and tell whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import ManifestError, PlanChanged, counted


@dataclass(frozen=True, slots=True)
class Source:
    """Identity of one manifest file."""

    # Absolute.
    path: str
    bytes: int
    # Spares the hashing of an unchanged file; no part of the identity.
    mtime_ns: int
    # Of the file's bytes, hexadecimal.
    sha256: str
    rows: int


def identify_file(file: Path, rows: int) -> Source:
    """Hash a file, streaming.

    :raises ManifestError: the file changed while it was hashed.
    """
    before = file.stat()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    after = file.stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ManifestError(
            f"{file}: changed while it was read; wait until it is written, then try again"
        )
    return Source(str(file.absolute()), after.st_size, after.st_mtime_ns, digest, rows)


def check_unchanged(sources: Iterable[Source]) -> None:
    """Check that these are still the files that were planned.

    A file is read only if its size is the planned one and its time of modification is not.

    :raises PlanChanged: a file is gone or differs; the message names the first such file.
    """
    for source in sources:
        path, changed = source.path, f"{source.path}: the manifest changed since planning"
        try:
            now = Path(path).stat()
        except OSError as error:
            raise PlanChanged(
                f"{path}: the manifest this run was planned from cannot be read: {error.strerror}"
            ) from None
        if now.st_size != source.bytes:
            raise PlanChanged(
                f"{changed}: {counted(source.bytes, 'byte')} then, {now.st_size:,} now"
            )
        same_time = now.st_mtime_ns == source.mtime_ns
        if not same_time and identify_file(Path(path), source.rows).sha256 != source.sha256:
            raise PlanChanged(f"{changed}: its size is the same, its sha256 is not")
