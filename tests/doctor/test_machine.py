"""Versions are compared with the ranges of the installed distribution; limits are the real ones."""

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from batchgen.doctor import machine
from batchgen.planning.identity import software


def install(folder: Path, name: str, version: str, *lines: str) -> None:
    """A distribution, as a folder of metadata that Python finds first."""
    metadata = folder / f"{name}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    about = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *lines)
    metadata.write_text("\n".join(about) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_this_installation_fits() -> None:
    (told,) = machine.versions()
    assert (told.name, told.state) == ("versions", "ok")
    assert "packages in the ranges that batchgen asks for: torch " in told.found


def test_versions_outside_of_their_ranges_fail_with_the_command(site: Path) -> None:
    install(site, "diffusers", "0.30.0")
    (told,) = machine.versions()
    assert told.state == "failed"
    assert "diffusers is 0.30.0 here, and batchgen needs <0.43,>=0.42.1" in told.found
    assert "-m pip install 'diffusers<0.43,>=0.42.1'" in told.remedy


def test_a_package_or_a_python_that_is_missing_fails(site: Path) -> None:
    wants = ("Requires-Python: >=3.99", "Requires-Dist: no-such-package>=1")
    install(site, "batchgen", "0.2.0", *wants, 'Requires-Dist: nor-this; extra == "test"')
    python, versions = machine.versions()
    assert (python.name, python.state) == ("python", "failed")
    assert "batchgen needs >=3.99" in python.found
    assert (versions.state, versions.found) == ("failed", "no-such-package is not installed")


def test_builds_with_a_local_name_are_in_the_range(site: Path) -> None:
    install(site, "torch", "2.99.0+cu130")
    assert [told.state for told in machine.versions()] == ["ok"]


def test_other_software_than_the_submitters_is_told() -> None:
    here = software()
    (same,) = machine.same_software(here)
    (other,) = machine.same_software(here | {"pillow": "1.2.3"})
    assert (same.state, other.state) == ("ok", "warning")
    assert other.found == f"pillow is {here['pillow']} here and 1.2.3 there"


@pytest.fixture
def few_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_low_limit_of_open_files_is_told_with_the_command(few_files: None) -> None:
    (told,) = machine.open_files()
    assert (told.state, told.found) == ("warning", "a process may open 200 files")
    assert told.remedy == "ulimit -n 1024"


def test_a_containers_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(str(2 * 10**9))
    monkeypatch.setattr("batchgen.planning.hardware._LIMITS", (limit,))
    (told,) = machine.memory()
    assert told.state == "warning"
    assert told.found.startswith("2.0 GB of host memory")
