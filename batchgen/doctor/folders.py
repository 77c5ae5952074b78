"""The folder of runs and the compile cache. What is tried in them leaves nothing there."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.doctor.needs import broken
from batchgen.durable_folder import try_folder
from batchgen.engine.compile.compile_cache import FOLDER
from batchgen.errors import OutputError, shell_command
from batchgen.planning.cut import SHARD_BYTES
from batchgen.run import RunDirectory, refuse_others
from batchgen.settings import Job
from batchgen.units import data_size

PRIVATE = ".batchgen-doctor-"
# Files that a run of a hundred shards needs, and more.
_LEAST_FILES = 10_000
_SYSTEMS = "local disks, NFS and Lustre have hard links"


def existing(folder: Path) -> Path:
    """The folder, or the innermost one above it that exists: in it the others would be made."""
    path = Path(os.path.abspath(folder.expanduser()))  # noqa: PTH100 - keeps names of links
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def run_folder(folder: Path) -> Iterator[Finding]:
    """Whether a folder does what runs rest on: links, renames, syncs; and whether it is mine."""
    parent = existing(folder)
    try:
        refuse_others(RunDirectory(folder))
        took, count = _tried(parent)
    except OutputError as refused:
        yield failed("run_folder", str(refused), "Name another folder with --out")
        return
    except OSError as error:
        remedy = f"Name a writable folder with --out, on a file system with hard links: {_SYSTEMS}"
        yield failed("run_folder", f"{parent}: {_reason(error)}", remedy)
        return
    told = f"{parent} ({_file_system(parent)}) links, renames and syncs, in {took * 1000:.0f} ms"
    odd = "" if count == 2 else f"; a file with two names says it has {count}: no harm"
    yield ok("run_folder", told + odd)


def free_space(folder: Path) -> Iterator[Finding]:
    """Space for pictures. Quotas are not seen."""
    parent = existing(folder)
    told = os.statvfs(parent)
    free, files = told.f_bavail * told.f_frsize, told.f_favail
    # Some file systems make files as needed, and say that they have 0 of 0.
    scarce = told.f_files and files < _LEAST_FILES
    found = f"{data_size(free)} free" + (f", and only {files:,} more files" if scarce else "")
    if scarce or free < 2 * SHARD_BYTES:
        name = shell_command("df", "-h", "-i" if scarce else parent, *([parent] if scarce else []))
        remedy = f"Free space, or name another folder with --out. To see it: {name}"
        yield warning("disk", f"{parent}: {found}", remedy)
    else:
        yield ok("disk", f"{parent}: {found}")


def compile_cache(job: Job | None, *, needed: bool) -> Iterator[Finding]:
    """Whether compiled code can be kept, where only this user can have written it.

    :param needed: whether the job compiles.
    """
    given = Path(job.run.compile_cache) if job and job.run.compile_cache else FOLDER
    folder = given.expanduser()
    parent, another = existing(folder), "or name another folder: --set run.compile_cache=FOLDER"
    try:
        _tried(parent)
    except OSError as error:
        remedy = f"Make it writable, {another}"
        told = f"{parent}: {_reason(error)}"
        yield broken("compile_cache", told, remedy, needed=needed)
        return
    status = parent.stat()
    if parent == folder and status.st_uid != os.geteuid():
        told = f"{folder}: belongs to user {status.st_uid}, not to you ({os.geteuid()})"
        yield broken("compile_cache", told, f"Remove it, {another}", needed=needed)
    elif parent == folder and status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        told = f"{folder}: can be written by others (mode {stat.S_IMODE(status.st_mode):o})"
        remedy = shell_command("chmod", "go-w", folder)
        yield broken("compile_cache", told, remedy, needed=needed)
    else:
        new = "" if parent == folder else f", to be made in {parent}"
        yield ok("compile_cache", f"{folder}{new}: writable, yours")


def _tried(folder: Path) -> tuple[float, int]:
    """Seconds that the operations took in a folder, and the link count that was seen.

    :raises OSError: one was refused, or did something else.
    """
    with tempfile.TemporaryDirectory(prefix=PRIVATE, dir=folder) as inner:
        began = time.perf_counter()
        count = try_folder(Path(inner))
        return time.perf_counter() - began, count


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder is on, such as `ext4`."""
    mounts = {Path(one.mountpoint): one.fstype for one in psutil.disk_partitions(all=True)}
    real = folder.resolve()
    return next((mounts[path] for path in (real, *real.parents) if path in mounts), "unknown")
