"""All problems of a manifest are counted; the first ten are shown in full."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchgen.errors import ManifestError

SHOWN = 10
ROWS_FROM_0 = "(rows are counted from 0 within their file)"
_SHOWN_CHARACTERS = 60

# Numbers of rows within a batch.
Rows = npt.NDArray[np.int64]
# Where a row of a batch stands, as in "row 3 of prompts.csv".
Place = Callable[[int], str]
# Takes a column, the rows that are wrong in it, and what is wrong with a row and what is accepted.
Report = Callable[[str, Rows, Callable[[int], str]], None]


def shorten(value: object) -> str:
    """Return a value as messages show it: texts quoted, and all cut after 60 characters."""
    text = str(value)
    if len(text) > _SHOWN_CHARACTERS:
        text = f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    return repr(text) if isinstance(value, str) else text


def place_in(file: Path, first_row: int) -> Place:
    """Return the places of a batch's rows that begins at row `first_row` of `file`."""
    return lambda row: f"row {first_row + row} of {file}"


class Problems:
    """All problems of one manifest."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []

    @contextmanager
    def batch(self, place: Place) -> Iterator[Report]:
        """Collect the problems of one batch, column by column, and show them in the order of rows.

        The function this yields counts one problem a row. It describes only rows that may be shown.
        """
        found: list[tuple[int, str]] = []
        room = SHOWN - len(self._shown)

        def report(column: str, rows: Rows, describe: Callable[[int], str]) -> None:
            self.count += len(rows)
            for row in rows[:room].tolist():
                text = f"{place(row)}, column {column}: {describe(row)}"
                found.append((row, text))

        yield report
        found.sort(key=itemgetter(0))
        self._shown += [text for _, text in found[:room]]

    def add(self, text: str) -> None:
        """Count one problem outside any batch."""
        self.count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(text)

    def raise_if_any(self) -> None:
        """Raise what was found.

        :raises ManifestError: with the number of all problems and the first ten in full.
        """
        first = f", the first {len(self._shown)}" if self.count > len(self._shown) else ""
        title = f"{self.count} problems in the manifest{first} {ROWS_FROM_0}:"
        if self.count == 1:
            raise ManifestError(f"{self._shown[0]} {ROWS_FROM_0}")
        if self.count:
            raise ManifestError("\n  ".join((title, *self._shown)))
