"""The compile cache: one process compiles, all others load, and no archive of others is loaded."""

import io
import json
import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import pytest

import batchgen.engine
from batchgen import durable
from batchgen.engine.compile import compile_cache
from batchgen.engine.compile.archive import unpack_archive, write_archive
from batchgen.engine.compile.compile_cache import CompileCache
from batchgen.errors import JobError
from batchgen.process import Process
from tests.engine.families.first_picture import compiled_once, read, start

FACTS = {"device": "a test"}
KEY = "0123456789abcdef"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short polls, and the caches' variables as they were before."""
    monkeypatch.setattr(compile_cache, "_POLL_S", 0.01)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.setenv("TRITON_CACHE_DIR", "")


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder of compiled code, with a lock that a compiler left."""
    folder = tmp_path / "code"
    for name in ("inductor/ab/cdef.so", "triton/xyz/kernel.json"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(name.encode() * 100)
    (folder / "inductor/ab.lock").touch()
    return folder


@pytest.fixture
def archive(code: Path, tmp_path: Path) -> Path:
    write_archive(code, KEY, tmp_path / "some.archive")
    return tmp_path / "some.archive"


def compile_something(text: str) -> None:
    """Write a file where Inductor would."""
    (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so").write_text(text)


def something_compiled() -> str:
    return (Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "kernel.so").read_text()


def forge(path: Path, *members: tarfile.TarInfo) -> Path:
    """An archive with a right checksum and these members, each of one byte if it is a file."""
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as tar:
        for member in members:
            member.size = 1 if member.isreg() else 0
            tar.addfile(member, io.BytesIO(b"x"))
    head = {"batchgen-compile": 1, "key": KEY, "sha256": sha256(body.getvalue()).hexdigest()}
    path.write_bytes(json.dumps(head).encode() + b"\n" + body.getvalue())
    path.chmod(0o600)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.slow
def test_two_processes_started_together_compile_once_and_paint_the_same_picture() -> None:
    _, reports = compiled_once()
    assert sorted(report.loaded for report in reports) == [False, True]
    for report in reports:
        assert report.graphs == 4
        assert report.compiled == (0 if report.loaded else 4)
    assert len({(report.sha256, report.picture) for report in reports}) == 1


@pytest.mark.slow
def test_a_later_process_reaches_its_first_picture_in_two_fifths_of_the_time() -> None:
    """Seconds of the processor, which do not depend on what else the machine does."""
    folder, reports = compiled_once()
    cold = next(report for report in reports if not report.loaded)
    warm = read(start(folder))
    print(f"first picture: cold {cold.cpu_s:.1f} s, warm {warm.cpu_s:.1f} s of processor time")
    assert warm.loaded
    assert warm.cpu_s <= 0.4 * cold.cpu_s
    assert (warm.sha256, warm.picture) == (cold.sha256, cold.picture)


def test_what_one_process_made_the_next_one_finds_in_a_private_folder(tmp_path: Path) -> None:
    with CompileCache(tmp_path, FACTS) as first:
        compile_something("made")
        place = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    with CompileCache(tmp_path, FACTS) as second:
        assert something_compiled() == "made"
        compile_something("more")
    with CompileCache(tmp_path, FACTS):
        assert something_compiled() == "made"
    assert (first.loaded, second.loaded, first.sha256) == (False, True, second.sha256)
    private = place.parent.parent
    assert private.is_relative_to(tempfile.gettempdir())
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_dir()


def test_other_code_has_another_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(**facts: object) -> str:
        return CompileCache(tmp_path, FACTS | facts).key

    plain = key()
    assert plain == key()
    of_two_ranks = CompileCache(tmp_path, FACTS, ranks=2).key
    assert len({plain, key(device="another"), key(tokens=[64, 96]), of_two_ranks}) == 4
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "3")  # this one changes nothing
    assert key() == plain
    monkeypatch.setenv("TORCHINDUCTOR_FREEZING", "1")
    assert key() != plain


def test_versions_cpu_and_source_are_in_the_key() -> None:
    software = compile_cache.compiler_software()
    assert all(software["versions"][name] for name in ("torch", "diffusers"))
    assert len(software["engine"]) == 64
    assert software["cpu"].startswith(os.uname().machine)


@pytest.mark.parametrize("name", ["families/flux.py", "compile/blocks.py", "build.py"])
def test_a_change_in_any_folder_of_the_engine_changes_the_key(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(Path(batchgen.engine.__file__).parent, engine)
    before = CompileCache(tmp_path, FACTS).key
    monkeypatch.setattr(compile_cache, "_ENGINE", engine)
    assert CompileCache(tmp_path, FACTS).key == before
    (engine / name).write_text((engine / name).read_text() + "\n")
    assert CompileCache(tmp_path, FACTS).key != before


def test_the_same_files_give_the_same_archive_without_locks(
    code: Path, archive: Path, tmp_path: Path
) -> None:
    os.utime(code / "inductor/ab/cdef.so", (1, 1))
    write_archive(code, KEY, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == archive.read_bytes()
    unpack_archive(archive, KEY, tmp_path / "there")
    there = tmp_path / "there"
    files = {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()}
    assert files == {"inductor/ab/cdef.so", "triton/xyz/kernel.json"}


def test_any_damaged_byte_is_noticed_before_a_file_is_written(
    archive: Path, tmp_path: Path
) -> None:
    whole = archive.read_bytes()
    for place in [*range(0, 130, 3), *range(130, len(whole), len(whole) // 40), len(whole) - 1]:
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(JobError, match=r"some\.archive (is|does|holds).*refused"):
            unpack_archive(archive, KEY, tmp_path / "there")
    for length in (0, 50, len(whole) // 2, len(whole) - 1):
        archive.write_bytes(whole[:length])
        with pytest.raises(JobError, match="refused"):
            unpack_archive(archive, KEY, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_an_archive_of_another_key_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=f"is foreign: it holds code for key {KEY}"):
        unpack_archive(archive, "fedcba", tmp_path / "there")


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_archive_that_others_can_write_to_is_refused(
    mode: int, archive: Path, tmp_path: Path
) -> None:
    archive.chmod(mode)
    with pytest.raises(JobError, match=f"can be written by others.*{mode:o}"):
        unpack_archive(archive, KEY, tmp_path / "there")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_archive_is_refused(archive: Path, tmp_path: Path) -> None:
    os.chown(archive, 12345, -1)
    with pytest.raises(JobError, match="belongs to user 12345, not to you"):
        unpack_archive(archive, KEY, tmp_path / "there")


def test_a_link_or_a_pipe_in_the_archives_place_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(archive)
    with pytest.raises(JobError, match=r"link cannot be opened"):
        unpack_archive(tmp_path / "link", KEY, tmp_path / "there")
    with pytest.raises(JobError, match=r"belongs|plain|cannot"):
        unpack_archive(tmp_path, KEY, tmp_path / "there")


@pytest.mark.parametrize(
    "evil",
    [
        member("../outside"),
        member("inductor/../../outside"),
        member("/tmp/outside"),
        member("inductor/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("inductor/link", tarfile.LNKTYPE, "inductor/good"),
        member("inductor/pipe", tarfile.FIFOTYPE),
        member("inductor/device", tarfile.CHRTYPE),
        member("inductor/folder", tarfile.DIRTYPE),
        member("inductor/good"),
        member("inductor/./good"),
    ],
    ids=lambda info: f"{info.name} {info.type.decode()}",
)
def test_a_member_that_is_no_plain_file_inside_is_refused_though_the_checksum_is_right(
    evil: tarfile.TarInfo, tmp_path: Path
) -> None:
    unpack_archive(forge(tmp_path / "good", member("inductor/good")), KEY, tmp_path / "fine")
    assert (tmp_path / "fine/inductor/good").read_bytes() == b"x"
    forged = forge(tmp_path / "evil", member("inductor/good"), evil)
    with pytest.raises(JobError, match="no plain file inside its folder"):
        unpack_archive(forged, KEY, tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_refused_archive_stops_the_warm_up_and_is_made_anew_once_it_is_removed(
    tmp_path: Path,
) -> None:
    with CompileCache(tmp_path, FACTS):
        compile_something("made")
    (archive,) = tmp_path.glob("*.archive")
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(JobError, match=f"{archive.name} is damaged"), CompileCache(tmp_path, FACTS):
        pytest.fail("loaded")
    archive.unlink()
    with CompileCache(tmp_path, FACTS, wait_s=60) as again:
        compile_something("made")
    assert not again.loaded


def test_a_careless_umask_makes_no_archive_that_others_could_write_to(
    code: Path, tmp_path: Path
) -> None:
    before = os.umask(0)
    try:
        write_archive(code, KEY, tmp_path / "open")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o600


def test_of_several_publishers_the_first_counts_and_all_know_its_hash(tmp_path: Path) -> None:
    """Each one has compiled different code."""
    folders = []
    for number in range(4):
        folder = tmp_path / f"code{number}"
        folder.mkdir()
        (folder / "kernel.so").write_text(str(number) * 1000)
        folders.append((folder, KEY, tmp_path / "one.archive"))
    with multiprocessing.get_context("fork").Pool(4) as pool:
        told = pool.starmap(write_archive, folders)
    assert set(told) == {unpack_archive(tmp_path / "one.archive", KEY, tmp_path / "there")}
    assert not list(tmp_path.glob(".*"))


def test_a_waiter_loads_what_another_process_publishes(tmp_path: Path) -> None:
    other = CompileCache(tmp_path, FACTS)
    with other:
        compile_something("made")
        waiter = CompileCache(tmp_path, FACTS, wait_s=60)
        found: list[bool] = []
        thread = threading.Thread(target=lambda: found.append(waiter._find()))
        thread.start()
        time.sleep(0.1)
        assert not found
    thread.join(60)
    assert found == [True]


@pytest.mark.parametrize(("signs", "waited_s"), [(True, 10_000), (False, 900)])
def test_a_compiler_is_waited_for_while_it_gives_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signs: bool, waited_s: float
) -> None:
    now = 0.0

    def sleep(_: float) -> None:
        nonlocal now
        now += 100
        if signs:
            os.utime(tmp_path / f"{waiter.key}.claim.0001", (now, now))

    waiter = CompileCache(tmp_path, FACTS, limit_s=10_000)
    with CompileCache(tmp_path, FACTS):
        compile_something("made")
        clock = types.SimpleNamespace(monotonic=lambda: now, sleep=sleep)
        with monkeypatch.context() as patched:
            patched.setattr(compile_cache, "time", clock)
            assert not waiter._find()
    assert now == waited_s + 100


def test_a_compiler_gives_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "_SIGN_S", 0.01)
    with CompileCache(tmp_path, FACTS) as code:
        compile_something("made")
        claim, end = tmp_path / f"{code.key}.claim.0001", time.monotonic() + 30
        before = claim.stat().st_mtime_ns
        while claim.stat().st_mtime_ns == before:
            assert time.monotonic() < end
            time.sleep(0.01)


def test_a_compiler_that_fails_lets_the_next_one_try(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), CompileCache(tmp_path, FACTS):
        _ = 1 / 0
    begin = time.monotonic()
    with CompileCache(tmp_path, FACTS, wait_s=60) as code:
        compile_something("made")
    assert time.monotonic() - begin < 30
    assert not code.loaded
    assert (tmp_path / f"{code.key}.0.archive").exists()


@pytest.mark.slow
def test_a_killed_compiler_is_not_waited_for_and_its_private_folder_goes(tmp_path: Path) -> None:
    with killed_compiler(tmp_path) as private:
        assert private.is_dir()
    with CompileCache(tmp_path, FACTS, wait_s=60) as code:
        assert not private.exists()
        compile_something("made")
    assert not code.loaded
    assert sorted(path.name for path in tmp_path.glob("*.claim.*")) == [
        f"{code.key}.claim.{end}" for end in ("0001", "0002", "0002.free")
    ]


def test_a_compiler_on_another_machine_is_waited_for_until_the_time_is_over(tmp_path: Path) -> None:
    code = CompileCache(tmp_path, FACTS, wait_s=0.3)
    owner = asdict(Process.me()) | {"host": "elsewhere"}
    claim = json.dumps({"owner": owner, "at": 0.0})
    durable.create(tmp_path / f"{code.key}.claim.0001", claim.encode())
    begin = time.monotonic()
    with code:
        assert time.monotonic() - begin >= 0.3
        compile_something("made")
    assert not code.loaded
    assert code.sha256


def test_a_replica_loads_the_archives_of_all_its_ranks_or_none(tmp_path: Path) -> None:
    def rank(number: int, decided: bool = False) -> CompileCache:
        """:param decided: what rank 1 hears from rank 0."""
        agree = (lambda found: decided) if number else (lambda found: found)
        return CompileCache(tmp_path, FACTS, rank=number, ranks=2, agree=agree)

    with rank(0) as first:
        compile_something("of rank 0")
    assert not first.loaded
    with rank(0) as first:  # rank 1 has not published
        assert not first.loaded
    with rank(1) as second:
        compile_something("of rank 1")
    with rank(0) as first:
        assert (first.loaded, something_compiled()) == (True, "of rank 0")
    with rank(1, decided=True) as second:
        assert (second.loaded, something_compiled()) == (True, "of rank 1")


def test_a_folder_that_cannot_be_used_is_named_before_anything_is_compiled(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(JobError, match=r"compile_cache: .*file/cache cannot be used"),
        CompileCache(tmp_path / "file/cache", FACTS),
    ):
        pytest.fail("entered")


@contextmanager
def killed_compiler(folder: Path) -> Iterator[Path]:
    """The private folder of a process that compiles, and that is killed at the end."""
    script = (
        "import os, sys, time, pathlib\n"
        "from batchgen.engine.compile.compile_cache import CompileCache\n"
        f"with CompileCache(pathlib.Path(sys.argv[1]), {FACTS!r}):\n"
        "    print(os.environ['TORCHINDUCTOR_CACHE_DIR'], flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield Path(process.stdout.readline().strip()).parent.parent
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
