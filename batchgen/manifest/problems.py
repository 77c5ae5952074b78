"""All problems of a manifest are counted; the first ten are shown in full."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchgen.errors import ManifestError, counted

SHOWN = 10
ROWS_FROM_0 = "(rows are counted from 0 within their file, without headers and blank lines)"
_SHOWN_CHARACTERS = 60

# Numbers of rows within a batch.
Rows = npt.NDArray[np.int64]
# Where a row of a batch stands, as in "row 3 of prompts.csv".
Place = Callable[[int], str]
# Takes a column, the rows that are wrong in it, and what is wrong with a row and what is accepted.
Report = Callable[[str, Rows, Callable[[int], str]], None]
# The same for one column.
ColumnReport = Callable[[Rows, Callable[[int], str]], None]


def shorten(value: object) -> str:
    """Return a value as messages show it: texts quoted, and all cut after 60 characters."""
    text = str(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    return repr(text) if isinstance(value, str) else text


def name_files(files: Iterable[object]) -> str:
    """Name files in a message: the first, and how many others there are."""
    first, *others = map(str, files)
    return f"{first} and {counted(len(others), 'other file')}" if others else first


def place_in(file: Path, first_row: int) -> Place:
    """Return the places of a batch's rows that begins at row `first_row` of `file`."""
    return lambda row: f"row {first_row + row} of {file}"


class Problems:
    """All problems of one manifest, in the order of its rows, whatever finds them and when."""

    def __init__(self) -> None:
        self.count = 0
        # The row over all files, and the message.
        self._shown: list[tuple[int, str]] = []

    @contextmanager
    def batch(self, place: Place, first_row: int) -> Iterator[Report]:
        """Collect the problems of one batch, column by column.

        The function this yields counts one problem a row. It describes only rows that may be shown.

        :param first_row: the number of the batch's first row over all files.
        """

        def report(column: str, rows: Rows, describe: Callable[[int], str]) -> None:
            self.count += len(rows)
            for row in rows[:SHOWN].tolist():
                if self._may_show(first_row + row):
                    text = f"{place(row)}, column {column}: {describe(row)}"
                    self._show(text, first_row + row)

        yield report

    def add(self, text: str, row: int) -> None:
        """Count one problem of a whole row, or of a file that begins at `row`, over all files."""
        self.count += 1
        if self._may_show(row):
            self._show(text, row)

    def _may_show(self, row: int) -> bool:
        return len(self._shown) < SHOWN or row < self._shown[-1][0]

    def _show(self, text: str, row: int) -> None:
        # Equal rows keep the order in which their problems were found.
        insort(self._shown, (row, text), key=itemgetter(0))
        del self._shown[SHOWN:]

    def raise_if_any(self) -> None:
        """Raise what was found.

        :raises ManifestError: with the number of all problems and the first ten in full.
        """
        shown = [text for _, text in self._shown]
        first = f", the first {len(shown)}" if self.count > len(shown) else ""
        counted = f" {ROWS_FROM_0}" if any("row " in text for text in shown) else ""
        if self.count == 1:
            raise ManifestError(f"{shown[0]}{counted}")
        if self.count:
            title = f"{self.count} problems in the manifest{first}{counted}:"
            raise ManifestError("\n  ".join((title, *shown)))
