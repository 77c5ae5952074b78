"""A file without an end is refused at once, wherever batchgen would read it whole."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from batchgen.regular_file import open_regular, read_regular
from tests.support.rehearsal import ask, write_prompts
from tests.support.specimens import planned


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


ENDLESS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "socket": bind,
    "folder": Path.mkdir,
}


@pytest.fixture(params=ENDLESS)
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A name below which there is no file."""
    path = tmp_path / "it"
    ENDLESS[request.param](path)
    return path


def test_a_regular_file_is_read_whole_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"cat" * 100_000)
    (tmp_path / "b").symlink_to("a")
    assert read_regular(tmp_path / "b") == b"cat" * 100_000
    with open_regular(tmp_path / "a") as file:
        assert (file.read(4), file.read(3)) == (b"catc", b"atc")


def test_what_has_no_end_is_refused_with_its_name(endless: Path) -> None:
    with pytest.raises(OSError) as raised:
        open_regular(endless)
    assert raised.value.filename == str(endless)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "none")


@pytest.mark.parametrize("option", ["--job", "--site"])
def test_no_pipe_is_a_job_file(option: str, endless: Path, tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.parquet", ["a cat"])
    answer = ask("plan", file, option, endless)
    assert answer.code == 2
    assert f"{endless}: cannot be read as a TOML file" in answer.err


@pytest.mark.parametrize("name", ["plan.json", "job.toml", "summary.json", "identity.json"])
def test_a_pipe_among_the_files_of_a_run_holds_nobody_up(name: str, tmp_path: Path) -> None:
    run = planned(tmp_path)
    file = run.directory.inner / name
    file.unlink(missing_ok=True)
    os.mkfifo(file)
    for verb in ("status", "verify"):
        answer = ask(verb, run.directory.root)
        assert answer.code == 0 or str(file) in answer.err or answer.out, answer


def test_a_link_to_itself_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run").symlink_to("run")
    answer = ask("status", tmp_path / "run")
    assert answer.code == 2
    assert "run: not a run directory" in answer.err
