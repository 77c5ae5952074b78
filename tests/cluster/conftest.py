"""A real SLURM cluster of four nodes for all tests of this folder. Where it cannot be had they are skipped, and in CI they fail."""

import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.ground import PROMPTS, SHAPE, Ground, Scene, load_script, missing, write_profile
from tests.protocol import recount
from tests.support.rehearsal import rehearse

RECOVERIES: list[tuple[str, str, str]] = []


@pytest.fixture(scope="session")
def ground() -> Iterator[Ground]:
    """The cluster, without accounting."""
    yield from start_cluster(accounting=False)


def start_cluster(*, accounting: bool) -> Iterator[Ground]:
    if lacking := missing(accounting=accounting):
        packages = "slurm-wlm munge mariadb-server-core slurmdbd"
        said = f"NOT TESTED ON SLURM, for {lacking} are not installed: apt-get install --no-install-recommends {packages}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    script = load_script()
    folder = Path(tempfile.mkdtemp(prefix="bg"))
    cluster = script.Cluster(folder)
    cluster.start(Namespace(accounting=accounting, max_array_size=100, min_job_age=300))
    yield Ground(cluster, script)
    cluster.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def calm(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ground]:
    """The cluster, empty, and known to this process; emptied again afterwards. It has no sacct, and nobody asks for it."""
    monkeypatch.setenv("SLURM_CONF", str(ground.cluster.conf))
    folder = tmp_path_factory.mktemp("no-sacct")
    (folder / "sacct").write_text(
        f"#!/bin/sh\necho \"$*\" >> {folder}/asked\necho 'sacct: command not found' >&2\nexit 127\n"
    )
    (folder / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    yield ground
    ground.calm()
    assert not (folder / "asked").exists(), (folder / "asked").read_text()


@pytest.fixture
def scene(calm: Ground, tmp_path: Path) -> Callable[..., Scene]:
    """Makes a run that is not submitted yet; its arguments are keys of the site profile."""

    def make(name: str = "run", **profile: object) -> Scene:
        return Scene(calm, tmp_path / name, write_profile(tmp_path / f"{name}.toml", **profile))

    return make


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tars' hashes of the same run on this machine, undisturbed."""
    root = tmp_path_factory.mktemp("here") / "run"
    assert rehearse(root, PROMPTS, **SHAPE).code == 0
    hashes: dict[str, str] = recount.tar_hashes(root)
    return hashes


@pytest.fixture
def tell_recovery() -> Callable[[str, str, str], None]:
    """Notes a line for the table at the end: what happened, how long it took to recover, what was lost."""
    return lambda *line: RECOVERIES.append(line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if RECOVERIES:
        terminalreporter.section("SLURM: what happened, and what it cost")
        for fault, recovery, lost in [("fault", "recovery", "groups made again"), *RECOVERIES]:
            terminalreporter.write_line(f"{fault:38}  {recovery:38}  {lost}")
