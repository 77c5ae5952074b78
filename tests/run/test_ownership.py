"""A run is gone on with only if nobody else can have written what its files say."""

import grp
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from batchgen.errors import OutputError
from batchgen.launch.cancel import stop
from batchgen.run import ownership, submissions
from batchgen.run.directory import RunDirectory
from batchgen.run.ownership import refuse_others
from batchgen.run.run import Run, create, open_run
from tests.support.rehearsal import ask, rehearse
from tests.support.specimens import planned

STRANGER = 12345
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to others")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = planned(tmp_path, ["a cat", "a dog"])
    submissions.record_submission(run.directory, ["batchgen", "submit"], 1)
    return run


# Everything whose content is done, or that leads to it.
PLACES = [
    *(".", ".batchgen", ".batchgen/plan.json", ".batchgen/job.toml"),
    *(".batchgen/jobs", ".batchgen/jobs/0001.json", ".batchgen/jobs/0001"),
]


@pytest.mark.slow
def test_a_new_run_is_closed_to_others_but_for_what_readers_want(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        rehearse(out := tmp_path / "new", ["a cat"])
    finally:
        os.umask(before)
    for path in [out, *out.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        inner = ".batchgen" in path.parts
        assert path.is_file() or mode == (0o700 if inner else 0o755)
        assert inner or mode & 0o444 == 0o444
        if path.name in ("job.toml", "plan.json") or path.match(".batchgen/jobs/**/*.json"):
            assert mode == 0o600, path
    refuse_others(RunDirectory(out))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", [0o002, 0o022])
def test_what_others_can_write_is_refused_with_the_command_that_ends_it(
    run: Run, place: str, mode: int
) -> None:
    path = (run.directory.root / place).resolve()
    path.chmod(path.stat().st_mode | mode)
    told = ask("resume", run.directory.root)
    assert told.code == 2
    assert f"{path}: can be written by others" in told.err
    command = f"chmod -R go-w {run.directory.root}"
    assert command in told.err
    assert os.system(command) == 0
    open_run(run.directory.root)


def again(run: Run) -> None:
    create(run.directory.root, run.plan.manifest, run.job, None)


def resumed(run: Run) -> None:
    open_run(run.directory.root)


def cancelled(run: Run) -> None:
    stop(run.directory, at_once=True, again="")


@root_only
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("deed", [again, resumed, cancelled])
def test_what_belongs_to_others_is_refused(
    run: Run, place: str, deed: Callable[[Run], None]
) -> None:
    os.chown(run.directory.root / place, STRANGER, -1)
    with pytest.raises(OutputError, match=rf"belongs to user {STRANGER}, not to you \(user root\)"):
        deed(run)


@pytest.mark.slow
@root_only
def test_a_new_run_is_not_made_in_a_folder_of_somebody_else(tmp_path: Path) -> None:
    """A folder inside of it is this user's own: so it is in a container."""
    mount = tmp_path / "mount"
    mount.mkdir()
    os.chown(mount, STRANGER, -1)
    assert "belongs to user 12345" in rehearse(mount, ["a cat"]).err
    assert list(mount.iterdir()) == []
    assert rehearse(mount / "mine", ["a cat"]).code == 0


def test_the_group_that_a_system_gives_each_user_is_nobody_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old runs of users with umask 002 go on."""
    run.directory.inner.chmod(0o770)
    group = run.directory.inner.stat().st_gid
    me = SimpleNamespace(pw_name="ada", pw_uid=1000, pw_gid=group)
    members: list[str] = []
    found = SimpleNamespace(gr_name="ada", gr_gid=group, gr_mem=members)
    monkeypatch.setattr(pwd, "getpwuid", lambda _: me)
    monkeypatch.setattr(grp, "getgrgid", lambda _: found)
    ownership._is_own_group.cache_clear()
    try:
        open_run(run.directory.root)
        members.append("bob")
        ownership._is_own_group.cache_clear()
        with pytest.raises(OutputError, match=r"can be written by others \(mode 770\)"):
            open_run(run.directory.root)
    finally:
        ownership._is_own_group.cache_clear()


@root_only
def test_a_file_system_without_owners_and_modes_says_nothing_about_others(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run.directory.inner.chmod(0o777)
    os.chown(run.directory.inner, STRANGER, -1)
    monkeypatch.setattr(os, "fstat", lambda _: run.directory.inner.stat())
    open_run(run.directory.root)
