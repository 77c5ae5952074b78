"""The folder of a new run: which folders may become one, and how it goes if nothing comes of it.

A run is made in a new or an empty folder. Whatever else is in a folder belongs to somebody, and a
run would replace its files or mix its own among them.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from batchgen import durable
from batchgen.durable_folder import ENDINGS, try_folder
from batchgen.errors import BatchgenError, OutputError, one_line
from batchgen.run.directory import RunDirectory, explain_remains
from batchgen.run.ownership import refuse_others

# What a submit that was killed while it planned may have left in `.batchgen/`.
_BEFORE_THE_PLAN = {
    "job.toml",
    "manifest.parquet",
    "manifest",
    "reserve",
    *(f"probe{e}" for e in ENDINGS),
}


def missing_folders(root: Path) -> list[Path]:
    """The folders that have to be made for a run, the innermost first."""
    directory = RunDirectory(root)
    folders = [directory.inner, directory.root, *directory.root.parents]
    return [folder for folder in folders if not folder.exists()]


@contextlib.contextmanager
def prepared_folder(root: Path) -> Iterator[None]:
    """Make a new run's folder. An error inside removes what was made: bad input leaves nothing.

    :raises OutputError: no run can be made there; the message says why not.
    """
    refuse_place(root)
    directory, made = RunDirectory(root), missing_folders(root)
    try:
        with _usable(directory):
            directory.make_inner()
            for folder in made:
                with contextlib.suppress(PermissionError):  # it may be written and not be read
                    durable.sync_folder(folder.parent)
            refuse_others(directory)
            try_folder(directory.inner)
        yield
    except BaseException:
        # Another submit may have made its run here meanwhile.
        with contextlib.suppress(NotADirectoryError):  # a file stands where a folder should
            if directory.inner in made and not directory.plan.exists():
                directory.manifest.unlink(missing_ok=True)
                shutil.rmtree(directory.fetched, ignore_errors=True)
        _remove_empty(made)
        raise


@contextlib.contextmanager
def unless_started(directory: RunDirectory, made: Sequence[Path] | None) -> Iterator[None]:
    """Remove a new run again if its first submission is refused inside.

    :param made: the folders that were made for the run, which then go if they are empty; None if
        the run is older than this process.
    """
    try:
        yield
    except BatchgenError:
        begun = [*directory.jobs.glob("*.json"), *directory.inner.glob("claims/*/*")]
        if made is not None and not begun:
            durable.remove(directory.plan)  # first: without it nobody takes the folder for a run
            shutil.rmtree(directory.inner, ignore_errors=True)
            _remove_empty([directory.data(0).parent, directory.metadata(0).parent, *made])
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders as long as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            if folder.exists():
                folder.rmdir()


def refuse_place(root: Path) -> None:
    """Refuse what cannot be the folder of a new run. A folder that has a plan is one already.

    :raises OutputError: the path is none for a run, or the folder is not empty.
    """
    directory = RunDirectory(root)
    with _usable(directory):
        if not directory.plan.exists():
            _refuse_path(root)
            _refuse_content(directory)


@contextlib.contextmanager
def _usable(directory: RunDirectory) -> Iterator[None]:
    """Say of an error inside that the folder cannot be used.

    :raises OutputError: with the remedy.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{directory.root}: cannot hold a run: {error.strerror or error}. It must be a "
            "writable folder on a file system with hard links (local disk, NFS, Lustre); name "
            "another with --out."
        ) from None


def _refuse_path(root: Path) -> None:
    """Refuse names that are no folder on this machine, or that others would read differently.

    :raises OutputError: a URL, a name that cannot be written into a batch script, or a folder
        inside of another run.
    """
    if root.parts and root.parts[0].endswith(":"):
        raise OutputError(
            f"--out {root}: batchgen writes to folders, not to URLs or other machines. Make the "
            "run in a folder and copy it when it is complete."
        )
    resolved = str(RunDirectory(root).root)
    refuse_letters(RunDirectory(root).root)
    if one_line(resolved) != resolved:
        raise OutputError(
            f"{one_line(resolved)}: a path with control characters or bytes that are not UTF-8 "
            "fits into no batch script. Name another folder with --out."
        )
    for parent in RunDirectory(root).root.parents:
        if RunDirectory(parent).plan.exists():
            raise OutputError(
                f"{resolved}: is inside of the run {parent}. Name a folder outside with --out."
            )


def refuse_letters(root: Path) -> None:
    """Refuse a path that SLURM and submitit would read differently (man sbatch, FILENAME PATTERN).

    :raises OutputError: a letter has a meaning of its own there.
    """
    if "%" in str(root) or "\\" in str(root):
        raise OutputError(
            f"{root}: SLURM and submitit replace % and what follows it in paths, and a \\ "
            "changes how they do. Name a folder without these letters with --out."
        )


def _refuse_content(directory: RunDirectory) -> None:
    """Refuse a folder that is not empty, except for what a killed submit may have left.

    :raises OutputError: with what the folder is taken for.
    """
    if not directory.root.exists():
        return
    ours = (directory.inner, directory.data(0).parent, directory.metadata(0).parent)
    entries = sorted(directory.root.iterdir())
    strange = [path for path in entries if path not in ours]
    strange += [path for path in ours[1:] if path in entries and _holds_files(path)]
    for path in sorted(directory.inner.iterdir()) if directory.inner in entries else ():
        left = path.name in _BEFORE_THE_PLAN or path.name.startswith((".", "keys-0000."))
        if not left and _holds_files(path):
            strange.append(path)
    if strange:
        listed = ", ".join(str(path.relative_to(directory.root)) for path in strange[:3])
        remains = explain_remains(directory)
        what = remains or f"{directory.root}: not empty ({listed}, …) and not a run of batchgen."
        raise OutputError(f"{what} For another run, name a new or an empty folder with --out.")


def _holds_files(path: Path) -> bool:
    return not path.is_dir() or any(not inner.is_dir() for inner in path.rglob("*"))
