"""Job files that come with batchgen are found by name, and never hide a file of that name."""

import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from batchgen.errors import JobError
from batchgen.settings import load_job
from batchgen.settings.ready_jobs import ready_jobs

ROOT = Path(__file__).parents[2]


def test_every_ready_job_is_found_by_its_name(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ready_jobs() == sorted(path.stem for path in (ROOT / "jobs").glob("*.toml"))
    for name in ready_jobs():
        assert load_job(Path(name)) == load_job(ROOT / "jobs" / f"{name}.toml")


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flux-dev").write_text("[sampling]\nsteps = 3\n")
    assert load_job(Path("flux-dev")).sampling.steps == 3


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(JobError, match=r"flux-def: no such job file\. Ready ones.*flux-dev"):
        load_job(Path("flux-def"))


@pytest.mark.slow
def test_a_wheel_has_them_and_says_that_it_is_typed(tmp_path: Path) -> None:
    source = tmp_path / "source"  # building leaves files beside the sources
    for name in ("batchgen", "jobs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = ZipFile(wheel).namelist()
    assert {f"batchgen/jobs/{name}.toml" for name in ready_jobs()} <= set(names)
    assert "batchgen/py.typed" in names
