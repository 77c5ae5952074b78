"""The temporary folder in which `plan --measure` makes its groups, and the end of all work there.

The folder says whose it is. Where that process was killed, the next `plan --measure` on this
machine ends the workers that go on without it, and removes the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from batchgen.launch.cancel import stop
from batchgen.process import Process
from batchgen.run import RunDirectory, read_submissions, submissions
from batchgen.view.status import START_S

_PREFIX, _OWNER = "batchgen-measure-", "owner.json"
_POLL_S = 0.2


@contextlib.contextmanager
def measuring_folder() -> Iterator[Path]:
    """A folder that is gone afterwards, with what processes that just ended still wrote."""
    remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    (folder / _OWNER).write_text(json.dumps(asdict(Process.me())))
    try:
        yield folder
    finally:
        _remove(folder)


def run_of(folder: Path) -> Path:
    """Where the run of the groups is."""
    return folder / "run"


def remove_abandoned() -> None:
    """Remove folders of this user whose processes were killed on this machine."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_ours(folder) and _is_abandoned(folder):
            directory = RunDirectory(run_of(folder))
            if directory.plan.exists():
                end_work(directory)
            _remove(folder)


def end_work(directory: RunDirectory) -> None:
    """End all processes of the run, and wait until they are gone. Ctrl-C does not end the wait."""
    patient = directory.complete()  # then they leave by themselves
    while True:
        try:
            if not _works(directory):
                return
            if not patient:
                stop(directory, at_once=True, again="")
            patient = False
            time.sleep(_POLL_S)
        except KeyboardInterrupt:
            continue


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder, and this user's: others may write to the place of such folders."""
    with contextlib.suppress(OSError):
        found = folder.lstat()
        return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return False


def _is_abandoned(folder: Path) -> bool:
    try:
        owner = Process(**json.loads((folder / _OWNER).read_text()))
        return owner.life() == "dead"
    except (OSError, ValueError, TypeError):  # it was begun in this moment
        return False


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)


def _works(directory: RunDirectory) -> bool:
    """Whether a process of the run lives, or its supervisor has not begun yet."""
    everybody = list(submissions.members(directory))
    if any(member.life() == "alive" for member in everybody):
        return True
    begun = [one.at for one in read_submissions(directory)]
    return bool(begun) and not everybody and time.time() - max(begun) < START_S
