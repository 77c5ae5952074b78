"""A text file as people have them: UTF-8 or, with a byte order mark, UTF-16; compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from batchgen.errors import ManifestError, shell_command
from batchgen.manifest.signatures import what_it_is

_HEAD_BYTES = 4
# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)


@contextmanager
def open_text(file: Path, *, newline: str) -> Iterator[TextIO]:
    r"""Open a text file for reading.

    Bytes that are not UTF-8 become lone surrogates, so that whoever parses a row can name it.

    :param newline: "" also ends lines at a carriage return, and "\n" does not. Neither translates.
    :raises ManifestError: while the file is opened or read inside: it cannot be read or decoded.
    """
    try:
        with _open_bytes(file) as raw:
            encoding = _encoding(file, cast("io.BufferedReader", raw).peek(_HEAD_BYTES))
            errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
            with io.TextIOWrapper(raw, encoding, errors, newline) as text:
                yield text
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ManifestError(
            f"{file}: cannot be unpacked: {error}. Truncated, or still being written? Copy it "
            "again."
        ) from None
    except UnicodeError as error:
        raise ManifestError(f"{file}: cannot be decoded: {error}; save it as UTF-8") from None
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read: {error.strerror or error}") from None


def encoding_of(file: Path) -> str:
    """Name the encoding of a file, as people do: "UTF-8", "UTF-16".

    :raises ManifestError: the file cannot be read, or its encoding is not accepted.
    """
    with open_text(file, newline="") as text:
        return text.encoding.removesuffix("-sig").upper()


def _open_bytes(file: Path) -> BinaryIO:
    """Open a file, unpacked if it is named `.gz`.

    :raises ManifestError: it is no text.
    """
    if file.suffix.lower() == ".gz":
        return cast("BinaryIO", gzip.open(file, "rb"))
    if what := what_it_is(file):
        raise ManifestError(f"{file}: {what}")
    return file.open("rb")


def _encoding(file: Path, head: bytes) -> str:
    """Return the encoding that a file's first bytes tell.

    :raises ManifestError: they look like UTF-16 or UTF-32 without a byte order mark.
    """
    for mark, encoding in _MARKS:
        if head.startswith(mark):
            return encoding
    zeros = [byte == 0 for byte in head[:_HEAD_BYTES]]
    if zeros in ([False, True] * 2, [True, False] * 2):
        wanted = "UTF-16BE" if zeros[0] else "UTF-16LE"
        command = shell_command("iconv", "-f", wanted, "-t", "UTF-8", file)
        raise ManifestError(
            f"{file}: looks like {wanted} without a byte order mark; save it as UTF-8: "
            f"{command} > NEW_FILE"
        )
    return "utf-8"
