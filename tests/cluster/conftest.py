"""A real SLURM cluster of four nodes for all tests of this folder.

If SLURM is not installed they are skipped; in CI they fail.
"""

import os
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import (
    PROMPTS,
    SHAPE,
    Cluster,
    ClusterRun,
    NewRun,
    load_script,
    require_slurm,
    write_profile,
)
from tests.protocol import recount
from tests.support.rehearsal import rehearse

RECOVERIES: list[tuple[str, str, str]] = []


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """The cluster, without accounting."""
    yield from start_cluster(accounting=False)


def start_cluster(*, accounting: bool) -> Iterator[Cluster]:
    require_slurm(accounting=accounting)
    script = load_script()
    folder = Path(tempfile.mkdtemp(prefix="bg"))
    cluster = script.Cluster(folder)
    cluster.start(Namespace(accounting=accounting, max_array_size=100, min_job_age=300))
    yield Cluster(cluster, script)
    cluster.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(
    shared_cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Cluster]:
    """The cluster, empty before and after a test. This process submits to it.

    It has no sacct, and nothing asks for it.
    """
    monkeypatch.setenv("SLURM_CONF", str(shared_cluster.testcluster.conf))
    folder = tmp_path_factory.mktemp("no-sacct")
    refuse = "echo 'sacct: command not found' >&2; exit 127"
    (folder / "sacct").write_text(f'#!/bin/sh\necho "$*" >> {folder}/asked; {refuse}\n')
    (folder / "sacct").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    yield shared_cluster
    shared_cluster.empty()
    assert not (folder / "asked").exists(), (folder / "asked").read_text()


@pytest.fixture
def new_run(cluster: Cluster, tmp_path: Path) -> NewRun:
    """Makes a run that is not submitted yet. The arguments are keys of its site profile."""

    def make(name: str = "run", **profile: object) -> ClusterRun:
        site = write_profile(tmp_path / f"{name}.toml", **profile)
        return ClusterRun(cluster, tmp_path / name, site)

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
    """Adds a line to the table at the end: the fault, the time to recover, what was lost."""
    return lambda *line: RECOVERIES.append(line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if RECOVERIES:
        terminalreporter.section("SLURM: what happened, and what it cost")
        for fault, recovery, lost in [("fault", "recovery", "groups made again"), *RECOVERIES]:
            terminalreporter.write_line(f"{fault:38}  {recovery:38}  {lost}")
