"""One Parquet file of a manifest as a stream of batches; no file is ever in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import ManifestError, counted
from batchgen.manifest.columns import BY_NAME, Columns, agree, find_columns
from batchgen.manifest.problems import Place, name_files
from batchgen.manifest.signatures import what_it_is

# Files that a user wrote, and their numbers of rows.
Origins = Sequence[tuple[str, int]]

_BATCH_ROWS = 16_384
# Bytes of encoded data: batches of long rows have fewer of them.
_BATCH_BYTES = 16 << 20
_READ_BYTES = 1 << 20


class ParquetManifest:
    """One Parquet file of a manifest, open for reading.

    :param origins: the files from which this one was converted, for messages.
    :raises ManifestError: the file is missing, empty, truncated or not Parquet.
    """

    def __init__(self, file: str | Path, origins: Origins = ()) -> None:
        self.file = str(file)
        try:
            self._parquet = pq.ParquetFile(
                file, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
            )
            self.schema: pa.Schema = self._parquet.schema_arrow
        except FileNotFoundError:
            raise ManifestError(f"{file}: no such file") from None
        except UnicodeDecodeError as error:
            raise ManifestError(f"{file}: the name of a column is not UTF-8: {error}") from None
        except (pa.ArrowException, OSError) as error:
            empty = Path(file).stat().st_size == 0
            told = "is empty (0 bytes)" if empty else f"cannot be read as Parquet: {error}"
            if what := what_it_is(file, "Parquet"):
                raise ManifestError(f"{file}: cannot be read as Parquet: it is {what}") from None
            raise ManifestError(
                f"{file}: {told}. Truncated, or still being written? Copy it again."
            ) from None
        metadata = self._parquet.metadata
        self.rows: int = metadata.num_rows
        held = sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if held != self.rows:
            raise ManifestError(
                f"{file}: damaged: {counted(self.rows, 'row is', 'rows are')} announced, and its "
                f"row groups hold {held}. Copy or write the file again."
            )
        self._origins = origins or [(self.file, self.rows)]

    def batches(
        self, columns: Sequence[str], first_row: int = 0, rows: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read `columns` of `rows` rows from `first_row` on; no other row group is read.

        Yields batches, each with the number of its first row.

        :raises ManifestError: a page is corrupt.
        """
        end_row = self.rows if rows is None else first_row + rows
        row = 0
        for number in range(self._parquet.metadata.num_row_groups):
            group = self._parquet.metadata.row_group(number)
            if row + group.num_rows <= first_row or row >= end_row:
                row += group.num_rows
                continue
            for batch in self._read_group(number, columns, row):
                skipped = min(max(first_row - row, 0), batch.num_rows)
                wanted = batch.slice(skipped, max(end_row - row - skipped, 0))
                if wanted.num_rows:
                    yield row + skipped, wanted
                row += batch.num_rows

    def _read_group(
        self, number: int, columns: Sequence[str], row: int
    ) -> Iterator[pa.RecordBatch]:
        """Read the row group that begins at `row`.

        :raises ManifestError: a page is corrupt.
        """
        group = self._parquet.metadata.row_group(number)
        row_bytes = max(group.total_byte_size / max(group.num_rows, 1), 1.0)
        batch_rows = int(min(max(_BATCH_BYTES / row_bytes, 64), _BATCH_ROWS))
        end = row + group.num_rows
        try:
            for batch in self._parquet.iter_batches(batch_rows, [number], list(columns)):
                yield batch
                row += batch.num_rows
            if row != end:
                raise pa.ArrowInvalid(f"{counted(end - row, 'row is', 'rows are')} missing")
        except (pa.ArrowException, OSError) as error:
            raise ManifestError(
                f"{self.file}: corrupt data at or after row {row}: {error}. "
                "Copy or write the file again."
            ) from None

    def place_from(self, first_row: int) -> Place:
        """Return the places of a batch's rows that begins at row `first_row`.

        A place names the file the user wrote, from which this one may have been converted.
        """

        def place(row: int) -> str:
            row += first_row
            origins = iter(self._origins)
            file, rows = next(origins)
            while row >= rows:
                row, (file, rows) = row - rows, next(origins)
            return f"row {row} of {file}"

        return place

    def name(self) -> str:
        """Return what to call the file in a message that names no row."""
        return name_files(file for file, _ in self._origins)

    def close(self) -> None:
        """Close the file."""
        self._parquet.close()


def open_all(
    files: Sequence[str | Path], mapping: Mapping[str, str] = BY_NAME, origins: Origins = ()
) -> tuple[list[ParquetManifest], Columns]:
    """Open the Parquet files of a manifest, and find the columns that they share.

    :param mapping: `[manifest] columns`.
    :param origins: the files from which the only file was converted.
    :raises ManifestError: a file cannot be read, or columns break the contract or differ.
    :raises JobError: `mapping` names columns that are not there.
    """
    opened = [ParquetManifest(file, origins) for file in files]
    columns = [(file.name(), find_columns(file.schema, file.name(), mapping)) for file in opened]
    return opened, agree(columns)
