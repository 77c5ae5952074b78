"""The test cluster starts in seconds and leaves nothing, for any user and beside other clusters."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.cluster import SCRIPT, Cluster, load_script, require_slurm, until

pytestmark = pytest.mark.slow
NOBODY = 65534


@pytest.fixture
def folder(shared_cluster: Cluster) -> Iterator[Path]:
    """A folder with a short name, as sockets need it. The shared cluster runs beside."""
    with tempfile.TemporaryDirectory(prefix="bg") as name:
        Path(name).chmod(0o777)
        yield Path(name) / "cluster"
        load_script().Cluster(Path(name) / "cluster").stop()


def say(
    verb: str, folder: Path, *words: str, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a verb of the script; as another user, from a copy that this user can read."""
    python, script = sys.executable, SCRIPT
    if user is not None:
        copy = shutil.copytree(SCRIPT.parent, folder.parent / "slurm", dirs_exist_ok=True)
        python, script = "/usr/bin/python3", copy / SCRIPT.name
    command = [python, "-I", str(script), verb, "--dir", str(folder), *words]
    return subprocess.run(
        command, **as_user(user), cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


def as_user(user: int | None) -> dict[str, Any]:
    return {} if user is None else {"user": user, "group": user, "extra_groups": []}


def left(folder: Path) -> list[int]:
    return list(load_script().Cluster(folder).processes())


@pytest.mark.parametrize(
    ("user", "words"), [(None, []), (NOBODY, []), (NOBODY, ["--accounting"])], ids=str
)
def test_it_starts_works_and_leaves_nothing(
    user: int | None, words: list[str], folder: Path
) -> None:
    require_slurm(accounting="--accounting" in words)
    if user is not None and (os.getuid() != 0 or not Path("/usr/bin/python3").exists()):
        pytest.skip("only root can be somebody else, and needs a Python that everybody can run")
    began = time.time()
    started = say("start", folder, *words, user=user)
    assert started.returncode == 0, started.stderr
    assert time.time() - began < 10 * max(1.0, os.getloadavg()[0] / 2)
    variable, conf = say("env", folder).stdout.removeprefix("export ").strip().split("=")

    def ask(command: str) -> str:
        environment = os.environ | {variable: conf}
        given = as_user(user) | {"env": environment, "cwd": "/", "text": True}
        return subprocess.run(command, shell=True, **given, capture_output=True, check=True).stdout

    show = "sh -c 'echo $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES'"
    told = ask(f"srun --nodes=4 --ntasks=4 --gpus-per-node=2 {show}")
    assert sorted(told.splitlines()) == [f"127.0.0.{node} 0,1" for node in range(1, 5)]
    if words:
        sacct = "sacct --noheader --allocations --format=Account"
        until(lambda: ask(sacct).split() == ["lab"], "sacct tells of it", 20)
    ask("sbatch -N 1 -o /dev/null --wrap 'sleep 300'")
    assert "gpu*" in say("status", folder).stdout
    assert len(left(folder)) > 6
    assert say("stop", folder, user=user).returncode == 0
    assert (left(folder), folder.exists()) == ([], False)


def test_a_machine_without_slurm_skips_the_tests_and_in_ci_fails_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == "slurmdbd" else name)
    require_slurm(accounting=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="slurmdbd are not installed"):
        require_slurm(accounting=True)
    monkeypatch.setenv("CI", "1")
    with pytest.raises(pytest.fail.Exception, match="slurmdbd are not installed"):
        require_slurm(accounting=True)


def test_what_cannot_be_is_told(folder: Path, shared_cluster: Cluster) -> None:
    none = "no cluster is there; start one with: slurm/testcluster start --dir"
    assert none in say("status", folder).stderr
    one = "a cluster is there already; end it with: slurm/testcluster stop --dir"
    assert one in say("start", shared_cluster.testcluster.root).stderr
    assert "too long a name" in say("start", folder / ("x" * 90)).stderr
    folder.mkdir()
    (folder / "thesis.tex").touch()
    assert "not empty" in say("start", folder).stderr
    assert say("stop", folder).returncode == 0
    assert (folder / "thesis.tex").exists()
    script = load_script()
    script.PATH = "/nowhere"
    packages = "apt-get install --no-install-recommends slurm-wlm munge"
    with pytest.raises(SystemExit, match=rf"not installed(.|\n)*{packages}"):
        script.require("slurmctld", "munged", packages="slurm-wlm munge")
