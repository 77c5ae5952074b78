"""Find the files of a manifest, and tell whether they are still the same."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from batchgen.errors import ManifestError, PlanChanged

KINDS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
_EXTENSIONS = ", ".join(KINDS)


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


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """Find a manifest's files, sorted by absolute path, whatever the order of `paths`.

    :param paths: files, globs (`**` too) or folders. Of a folder, the files directly inside are
        taken, except those whose names begin with `.` or `_`.
    :raises ManifestError: there is no such file, an extension is unknown, a file is empty or given
        twice, or files are of several kinds.
    """
    files = sorted((file for path in paths for file in _expand(str(path))), key=Path.absolute)
    if not files:
        raise ManifestError(
            f"no manifest given; a manifest is a file, a glob or a folder of {_EXTENSIONS} files"
        )
    for file in files:
        try:
            str(file.absolute()).encode()
        except UnicodeEncodeError:
            raise ManifestError(f"{file}: the path is not UTF-8; rename it") from None
        if file.suffix.lower() not in KINDS:
            raise ManifestError(
                f"{file}: unknown extension {file.suffix!r}; a manifest is {_EXTENSIONS}"
            )
        if file.stat().st_size == 0:
            raise ManifestError(f"{file}: the file is empty (0 bytes)")
    for one, two in pairwise(files):
        if kind_of(one) != kind_of(two):
            raise ManifestError(
                f"{one} and {two}: files of one manifest must be of one kind: Parquet, CSV or JSONL"
            )
        if one.resolve() == two.resolve():
            raise ManifestError(f"{two}: given twice; each of its rows would be planned twice")
    return files


def _expand(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        inside = [
            file
            for file in path.iterdir()
            if file.is_file() and file.name[0] not in "._" and file.suffix.lower() in KINDS
        ]
        if not inside:
            raise ManifestError(
                f"{name}: a folder without manifest files ({_EXTENSIONS}) directly inside"
            )
        return inside
    if path.exists():
        return [path]
    if not glob.has_magic(name):
        raise ManifestError(f"{name}: no such file or folder")
    # Path.glob takes no absolute globs.
    found = [Path(match) for match in glob.glob(name, recursive=True)]  # noqa: PTH207
    files = [file for file in found if file.is_file()]
    if not files:
        raise ManifestError(f"{name}: no file matches this glob")
    return files


def kind_of(file: Path) -> str:
    """Return `parquet`, `csv` or `jsonl`, by extension."""
    return KINDS[file.suffix.lower()]


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
            raise PlanChanged(f"{changed}: {source.bytes} bytes then, {now.st_size} now")
        same_time = now.st_mtime_ns == source.mtime_ns
        if not same_time and identify_file(Path(path), source.rows).sha256 != source.sha256:
            raise PlanChanged(f"{changed}: its size is the same, its sha256 is not")
