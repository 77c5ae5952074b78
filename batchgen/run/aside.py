"""Files that are taken out of the way: kept in `.batchgen/replaced/`, never deleted."""

from __future__ import annotations

import contextlib
from pathlib import Path

from batchgen import durable
from batchgen.run.directory import PRIVATE, RunDirectory


def new_aside(directory: RunDirectory) -> Path:
    """A new folder in `.batchgen/replaced/`, whose name is on the disk."""
    directory.replaced.mkdir(PRIVATE, exist_ok=True)
    number = len(list(directory.replaced.iterdir()))
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (folder := directory.replaced / f"{number:04d}").mkdir(PRIVATE)
            durable.sync_folder(directory.replaced)
            durable.sync_folder(directory.inner)
            return folder


def put_aside(directory: RunDirectory, path: Path, aside: Path) -> None:
    """Move a file of the run, if it is there, to the same name below `aside`."""
    above = directory.inner if path.is_relative_to(directory.inner) else directory.root
    folder = (aside / path.relative_to(above)).parent
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        durable.move(path, folder)


def replace_keeping(directory: RunDirectory, path: Path, data: bytes) -> None:
    """Write a file that may exist. If its content is another, somebody's, it is kept aside."""
    if path.exists() and path.read_bytes() != data:
        durable.link(path, new_aside(directory) / path.name)
    durable.replace(path, data)
