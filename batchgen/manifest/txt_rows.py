"""A text file with one prompt a line, as typed batches."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen.errors import ManifestError, counted
from batchgen.manifest.columns import find_columns
from batchgen.manifest.contract import stand_in
from batchgen.manifest.problems import Problems, place_in, shorten
from batchgen.manifest.text_file import encoding_of, open_text
from batchgen.manifest.utf8 import encodable

_LINES = 16_384
_NOT_UTF8 = "is not valid UTF-8; save the file as UTF-8"
# Comments and options of other programs: one line looks like it, many do.
_LOOKS = {
    ("line begins with #", "lines begin with #"): re.compile(r"^#"),
    ("line holds an option (--w 512)", "lines hold options (--w 512)"): re.compile(r"\s--\w"),
}


class TxtReader:
    """The lines of text files; blank lines are no rows, and spaces around prompts do not count.

    :raises ManifestError: a file cannot be read, or begins like a table.
    :raises JobError: `mapping` names columns other than the only one, `prompt`.
    """

    def __init__(
        self, files: Sequence[Path], mapping: Mapping[str, str], problems: Problems
    ) -> None:
        self._problems = problems
        self._encodings = [encoding_of(file) for file in files]
        # What lines look like to other programs → how many of them.
        self._odd = Counter[tuple[str, str]]()
        for file in files:
            _refuse_table(file)
        self.schema = pa.schema([("prompt", pa.string())])
        find_columns(self.schema, files[0], mapping)

    def describe(self) -> str:
        """Say how the files are read, for the plan; once they are, what else lines look like."""
        odd = [counted(count, one, many) for (one, many), count in self._odd.items()]
        told = f"; {', '.join(odd)}: all of it is prompt" if odd else ""
        return f"text, a prompt a line, {', '.join(dict.fromkeys(self._encodings))}{told}"

    def batches(self, file: Path, first_row: int) -> Iterator[pa.RecordBatch]:
        """Read one file's prompts; those that are not UTF-8 are reported and replaced.

        :param first_row: the number of the file's first row over all files.
        :raises ManifestError: the file cannot be read.
        """
        prompts, start = _prompts(file), 0
        while chunk := list(islice(prompts, _LINES)):
            broken = [row for row, text in enumerate(chunk) if not encodable(text)]
            with self._problems.batch(place_in(file, start), first_row + start) as report:
                report("prompt", np.array(broken, np.int64), lambda _: _NOT_UTF8)
            for text in chunk:
                self._odd.update(told for told, looks in _LOOKS.items() if looks.search(text))
            for row in broken:
                chunk[row] = str(stand_in("prompt"))
            yield pa.RecordBatch.from_arrays([pa.array(chunk, pa.string())], schema=self.schema)
            start += len(chunk)


def _refuse_table(file: Path) -> None:
    """Refuse a table, whose header would become a prompt, and JSON.

    :raises ManifestError: the first line names a column `prompt`.
    """
    first = next(_prompts(file), "")
    if re.match(r'\{\s*"', first):
        raise ManifestError(
            f"{file}: the first line is JSON: {shorten(first)}. JSON lines are named .jsonl, and "
            ".txt has a prompt a line"
        )
    names = {name.strip(' "').casefold() for name in re.split(r"[,;|\t]", first)}
    if "prompt" in names:
        raise ManifestError(
            f"{file}: the first line is the header of a table: {shorten(first)}. A table is named "
            ".csv, and .txt has a prompt a line"
        )


def _prompts(file: Path) -> Iterator[str]:
    with open_text(file, newline="") as lines:
        yield from (text for line in lines if (text := line.strip()))
