"""What a file is by its first bytes, whatever its name says, for messages."""

from __future__ import annotations

from pathlib import Path

from batchgen.errors import shell_command

_HEAD_BYTES = 64
_LFS = "a pointer of Git LFS, not the file itself; fetch it: git lfs pull"
_PAGE = "a web page, not a table; download the file itself"

# First bytes → what the file is, and what to do. {file} is its name, quoted for the shell.
_SIGNATURES: dict[bytes, str] = {
    b"PAR1\x15": "Parquet; name it .parquet",
    b"ARROW1\0\0": "Arrow; name it .arrow",
    b"PK\x03\x04": "an Excel workbook or a zip archive; save the sheet as CSV UTF-8, or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the sheet as CSV UTF-8",
    b"\x1f\x8b": "compressed by gzip; unpack it: gunzip -c {file} > NEW_FILE",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it: unzstd -c {file} > NEW_FILE",
    b"BZh91AY&SY": "compressed by bzip2; unpack it: bunzip2 -c {file} > NEW_FILE",
    b"\xfd7zXZ": "compressed by xz; unpack it: unxz -c {file} > NEW_FILE",
    b"version https://git-lfs": _LFS,
    b"<!doctype html": _PAGE,
    b"<html": _PAGE,
}


def what_it_is(file: str | Path, expected: str = "") -> str:
    """Say what a file is, and what to do.

    :param expected: what it should be, a word that a signature's text begins with.
    :returns: "" where nothing is known, and where it is what it should be.
    """
    try:
        with Path(file).open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return ""
    for signature, what in _SIGNATURES.items():
        if head.startswith(signature) or head.lstrip().lower().startswith(signature):
            is_expected = bool(expected) and what.startswith(expected)
            return "" if is_expected else what.format(file=shell_command(file))
    return ""
