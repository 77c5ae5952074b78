"""What separates the fields of a CSV file, by the evidence of its header, and its records.

Records are parsed by Python's csv module, strictly: a quoted field ends in a quote, and nothing
stands between that quote and the next separator. A quote that is opened and not closed would
otherwise swallow rows without a word.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import ManifestError
from batchgen.manifest.problems import shorten
from batchgen.manifest.text_file import encoding_of, open_text
from batchgen.manifest.utf8 import encodable

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# A longer field is taken for a quote that is not closed.
_MOST_CHARACTERS = 16 << 20
# What follows the opening quote of a field, up to its closing one.
_QUOTED = re.compile(r'(?:[^"]|"")*+"')


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one CSV file is written."""

    delimiter: str
    # As people call it: "UTF-8", "UTF-16".
    encoding: str
    header: tuple[str, ...]

    @property
    def separators(self) -> str:
        """What separates fields, as people call it: "commas"."""
        return _DELIMITERS[self.delimiter]

    def describe(self) -> str:
        """Say what was taken, for the plan."""
        return f"CSV separated by {self.separators}, {self.encoding}"


def find_dialect(file: Path, wanted: Callable[[list[str]], bool]) -> Dialect:
    """Find out how a CSV file is written.

    Among commas (in a `.tsv`, tabs), semicolons, tabs and vertical bars, the separator is the first
    one with which the header has the columns that are needed; else the one it has most of.

    :param wanted: tells whether these are the columns that are needed.
    :raises ManifestError: the header cannot be read with any separator.
    """
    encoding, found, refused = encoding_of(file), {}, []
    for delimiter in sorted(_DELIMITERS, key=lambda one: one != _usual(file)):
        try:
            found[delimiter] = next(read_records(file, delimiter), (0, []))[1]
        except ManifestError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    needed = [delimiter for delimiter, names in found.items() if wanted(names)]
    delimiter = needed[0] if needed else max(found, key=lambda one: len(found[one]))
    header = found[delimiter]
    if not header:
        raise ManifestError(f"{file}: no header; expected a line of column names, one is prompt")
    if not all(map(encodable, header)):
        raise ManifestError(f"{file}: the header is not UTF-8; save the file as CSV UTF-8")
    return Dialect(delimiter, encoding, tuple(header))


def _usual(file: Path) -> str:
    return "\t" if ".tsv" in (suffix.lower() for suffix in file.suffixes[-2:]) else ","


def read_records(file: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Read the records that are not blank, each with the number of its first line, from 1.

    Bytes that are not UTF-8 are lone surrogates.

    :raises ManifestError: a quote is not closed, or the file cannot be read.
    """
    csv.field_size_limit(_MOST_CHARACTERS)
    record: list[str] = []
    with open_text(file, newline="") as text:
        reader = csv.reader(_remembered(text, record), delimiter=delimiter, strict=True)
        line = 1
        while True:
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise _unreadable(file, line, "".join(record), delimiter, error) from None
            if fields:
                yield line, fields
            line = reader.line_num + 1
            record.clear()


def _remembered(lines: Iterable[str], record: list[str]) -> Iterator[str]:
    """Pass lines on, and put them in `record`."""
    for line in lines:
        record.append(line)
        yield line


def _unreadable(
    file: Path, line: int, record: str, delimiter: str, error: csv.Error
) -> ManifestError:
    """Name the line in which the quote opens that is not closed, or not followed by a separator.

    :param line: where `record` begins.
    """
    opened, closed = _last_quote(record, delimiter)
    at = line + record.count("\n", 0, opened)
    told = f"{file}, line {at}: a quote opens here and is never closed"
    if closed is not None:
        until = line + record.count("\n", 0, closed)
        then = record[closed : closed + 20].partition("\n")[0]
        where = f"line {until}" if until != at else "the same line"
        told = (
            f"{file}, line {at}: a quote opens here and is closed in {where}, where "
            f"{shorten(then)} follows instead of a separator"
        )
    beginning = shorten(record[opened:].partition("\n")[0])
    return ManifestError(
        f"{told}: {beginning}; close it, and double quotes inside of quoted texts "
        f"(lines are counted from 1; {error})"
    )


def _last_quote(record: str, delimiter: str) -> tuple[int, int | None]:
    """Return where the last quoted field of a record opens, and the end of its closing quote."""
    at, opened, closed = 0, 0, None
    while at < len(record):
        if record[at] == '"':
            found = _QUOTED.match(record, at + 1)
            opened, closed = at, found.end() if found else None
            if not found or record[found.end() :][:1] not in (delimiter, "\r", "\n", ""):
                break
            at = found.end()
        after = record.find(delimiter, at)
        if after < 0:
            break
        at = after + 1
    return opened, closed
