"""Samples of published tars, by their keys."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from batchgen.errors import DamagedRun, counted, shell_command

# As webdataset has it: `__key__`, `__url__`, and the content of each file by the end of its name.
Sample: TypeAlias = dict[str, Any]


def read_samples(tar: Path, wanted: set[str]) -> Iterator[Sample]:
    """The samples of these keys, in the tar's order. The files of others are passed over unread.

    :raises DamagedRun: they are not all there.
    """
    left, sample = set(wanted), Sample()
    for key, kind, data in _files(tar, wanted):
        if sample.get("__key__") != key:
            if sample:
                yield sample
            sample = {"__key__": key, "__url__": str(tar)}
            left.discard(key)
        sample[kind] = data
    if sample:
        yield sample
    if left:
        raise _damaged(tar, f"lacks {counted(len(left), 'picture')} of its records: {min(left)} …")


def _files(tar: Path, wanted: set[str]) -> Iterator[tuple[str, str, bytes]]:
    """Key, end of the name, and content."""
    try:
        with tarfile.open(tar, "r:") as opened:
            while member := opened.next():
                opened.members.clear()  # type: ignore[attr-defined]  # it would keep them all
                key, _, kind = member.name.partition(".")
                if key in wanted and (file := opened.extractfile(member)):
                    yield key, kind, file.read()
    except (tarfile.TarError, OSError) as error:
        raise _damaged(tar, f"cannot be read: {error}") from None


def _damaged(tar: Path, wrong: str) -> DamagedRun:
    check = shell_command("batchgen", "verify", tar.parent.parent, "--deep", "--repair")
    return DamagedRun(f"{tar}: {wrong}. If it was copied, copy it again; for a run: {check}")
