"""Which files a manifest is, whether they are still the same, and their Parquet read as a stream."""

from __future__ import annotations

import glob
import hashlib
import json
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import ManifestError, PlanChanged
from batchgen.manifest.contract import Columns, agree, find_columns

PARQUET = (".parquet", ".pq")
CSV = (".csv",)
JSONL = (".jsonl", ".ndjson")
EXTENSIONS = PARQUET + CSV + JSONL
ORIGINS = (
    b"batchgen.origins"  # Parquet file metadata of a converted manifest: JSON [[file, rows], …]
)

_BATCH_ROWS = 16_384
_BATCH_BYTES = 16 << 20  # of encoded data, so that long rows come in smaller batches
_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Source:
    """Identity of one manifest file."""

    path: str  # absolute
    bytes: int
    mtime_ns: int  # saves the hashing when nothing changed; not part of the identity
    sha256: str  # of the file's bytes, hexadecimal
    rows: int


def find_files(paths: Sequence[str | Path]) -> list[Path]:
    """The manifest's files, sorted by absolute path: the order of its rows, whatever the order on the command line.

    :param paths: files, globs (`**` too), or folders, of which the files directly inside are taken (hidden ones and `_`-names not).
    :raises ManifestError: nothing there, an unknown extension, files of several kinds, a file given twice.
    """
    files = sorted((file for path in paths for file in _expand(str(path))), key=Path.absolute)
    if not files:
        raise ManifestError(
            f"no manifest given; a manifest is a file, a glob or a folder of {', '.join(EXTENSIONS)} files"
        )
    for file in files:
        if file.suffix.lower() not in EXTENSIONS:
            raise ManifestError(
                f"{file}: unknown extension {file.suffix!r}; a manifest is {', '.join(EXTENSIONS)}"
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


def _expand(path: str) -> list[Path]:
    if Path(path).is_dir():
        visible = [
            entry for entry in Path(path).iterdir() if entry.is_file() and entry.name[0] not in "._"
        ]
        inside = [entry for entry in visible if entry.suffix.lower() in EXTENSIONS]
        if not inside:
            raise ManifestError(
                f"{path}: a folder without manifest files ({', '.join(EXTENSIONS)}) directly inside"
            )
        return inside
    if Path(path).exists():
        return [Path(path)]
    if not glob.has_magic(path):
        raise ManifestError(f"{path}: no such file or folder")
    found = [
        Path(entry)
        for entry in glob.glob(path, recursive=True)  # noqa: PTH207  the glob may be absolute
        if Path(entry).is_file()
    ]
    if not found:
        raise ManifestError(f"{path}: no file matches this glob")
    return found


def kind_of(file: Path) -> str:
    """`parquet`, `csv` or `jsonl`, by extension."""
    suffix = file.suffix.lower()
    return "parquet" if suffix in PARQUET else "csv" if suffix in CSV else "jsonl"


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
    """Are these still the files that were planned? Reads a file only where its size fits and its time does not.

    :raises PlanChanged: naming the first file that is gone or differs.
    """
    for source in sources:
        try:
            now = Path(source.path).stat()
        except OSError as error:
            raise PlanChanged(
                f"{source.path}: the manifest this run was planned from cannot be read: {error.strerror}"
            ) from None
        if now.st_size != source.bytes:
            raise PlanChanged(
                f"{source.path}: the manifest changed since planning: {source.bytes} bytes then, {now.st_size} now"
            )
        if now.st_mtime_ns != source.mtime_ns:
            found = identify_file(Path(source.path), source.rows).sha256
            if found != source.sha256:
                raise PlanChanged(
                    f"{source.path}: the manifest changed since planning: its size is the same, its sha256 is not"
                )


class ParquetManifest:
    """One Parquet file of a manifest, open for reading; rows come in bounded batches, never the file at once."""

    def __init__(self, file: str | Path) -> None:
        """:raises ManifestError: missing, empty, truncated or not Parquet."""
        self.file = str(file)
        try:
            self._parquet = pq.ParquetFile(
                file, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            self.schema: pa.Schema = self._parquet.schema_arrow
        except FileNotFoundError:
            raise ManifestError(f"{file}: no such file") from None
        except (pa.ArrowException, OSError) as error:
            what = (
                "is empty (0 bytes)"
                if Path(file).stat().st_size == 0
                else f"cannot be read as Parquet: {error}"
            )
            raise ManifestError(
                f"{file}: {what}. Truncated, or still being written? Copy it again."
            ) from None
        self.rows: int = self._parquet.metadata.num_rows
        self._origins = self._read_origins()

    def layout(self) -> Columns:
        """:raises ManifestError: the columns break the contract."""
        return find_columns(self.schema, self.file)

    def batches(
        self, columns: Sequence[str], start_row: int = 0, rows: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """(number of its first row, batch) of these columns of `rows` rows from `start_row` on; only their row groups are read.

        :raises ManifestError: a corrupt page.
        """
        end_row = self.rows if rows is None else start_row + rows
        groups, row = self._groups(start_row, end_row)
        try:
            for batch in self._parquet.iter_batches(
                self._batch_rows(), row_groups=groups, columns=list(columns)
            ):
                skipped = min(max(start_row - row, 0), batch.num_rows)
                wanted = batch.slice(skipped, max(end_row - row - skipped, 0))
                if wanted.num_rows:
                    yield row + skipped, wanted
                row += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            row = self._last_readable(columns, row)
            raise ManifestError(
                f"{self.file}: corrupt data at or after row {row}: {error}. Copy or write the file again."
            ) from None

    def place(self, row: int) -> str:
        """`row N of FILE`, in the file the user wrote where this one was converted from CSV or JSONL."""
        for file, rows in self._origins:
            if row < rows:
                return f"row {row} of {file}"
            row -= rows
        return f"row {row} of {self.file}"

    def place_after(self, start: int, row: int) -> str:
        """`place`, of a row counted from `start` on."""
        return self.place(start + row)

    def name(self) -> str:
        """What to call the file in a message that names no row."""
        return ", ".join(file for file, _ in self._origins) or self.file

    def close(self) -> None:
        """Release the file."""
        self._parquet.close()

    def _read_origins(self) -> list[tuple[str, int]]:
        text = (self._parquet.metadata.metadata or {}).get(ORIGINS)
        return [(file, rows) for file, rows in json.loads(text)] if text else []

    def _last_readable(self, columns: Sequence[str], row: int) -> int:
        """How far rows from `row` on can be read one row group at a time: batches span several, and fail as a whole."""
        groups, row = self._groups(row, self.rows)
        for group in groups:
            try:
                for batch in self._parquet.iter_batches(
                    1024, row_groups=[group], columns=list(columns)
                ):
                    row += batch.num_rows
            except (pa.ArrowException, OSError):
                break
        return row

    def _groups(self, start_row: int, end_row: int) -> tuple[list[int], int]:
        """The row groups that hold these rows, and the first row of the first."""
        sizes = [
            self._parquet.metadata.row_group(i).num_rows
            for i in range(self._parquet.metadata.num_row_groups)
        ]
        ends = list(accumulate(sizes))
        first, last = bisect_right(ends, start_row), bisect_left(ends, end_row)
        return list(range(first, min(last + 1, len(ends)))), ends[first - 1] if first else 0

    def _batch_rows(self) -> int:
        metadata = self._parquet.metadata
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        widest = max(
            (group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0
        )
        return int(min(max(_BATCH_BYTES / max(widest, 1.0), 64), _BATCH_ROWS))


def open_all(files: Sequence[str | Path]) -> tuple[list[ParquetManifest], Columns]:
    """Open the Parquet files of a manifest and the layout they share.

    :raises ManifestError: unreadable files, columns that break the contract or differ between files.
    """
    opened = [ParquetManifest(file) for file in files]
    return opened, agree([(manifest.name(), manifest.layout()) for manifest in opened])
