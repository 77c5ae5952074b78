"""Manifests behind URLs are fetched once, planned as others are, and named by their URLs."""

import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import InputError, ManifestError, Unreachable
from batchgen.manifest import gather_files
from batchgen.planning import dry_run, make_plan
from batchgen.run import inspect_run, open_run
from batchgen.settings import Job
from tests.support.rehearsal import ask, records
from tests.support.s3_server import s3, s3_server

__all__ = ["s3", "s3_server"]

TESTCARDS = Job.model_validate({"engine": {"kind": "pattern"}})


def parquet(*prompts: str) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"prompt": list(prompts)}), sink)
    return sink.getvalue()


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    fs = fsspec.filesystem("memory")
    fs.pipe("/in/b.parquet", parquet("b"))
    fs.pipe("/in/a.parquet", parquet("a", "aa"))
    fs.pipe("/in/_metadata.parquet", parquet("hidden"))
    fs.pipe("/in/README.md", b"no manifest")
    fs.pipe("/in/more/c.parquet", parquet("c"))
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]


def prompts(found: list[Path]) -> list[str]:
    return [one for file in found for one in pq.read_table(file)["prompt"].to_pylist()]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["memory://in"], ["a", "aa", "b"]),
        (["memory://in/b.parquet", "memory://in/a.parquet"], ["a", "aa", "b"]),
        (["memory://in/**/*.parquet"], ["hidden", "a", "aa", "b", "c"]),
    ],
)
def test_files_globs_and_folders_in_the_order_of_their_urls(
    memory: object, tmp_path: Path, words: list[str], expected: list[str]
) -> None:
    found = gather_files(words, tmp_path / "here")
    assert prompts(found.files) == expected
    assert all(name.startswith("memory://") for name in found.names)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["memory://in/none.parquet"], "memory://in/none.parquet: no such file or folder"),
        (["memory://in/*.csv"], r"memory://in/\*\.csv: no file matches this glob"),
        (["memory://in/README.md"], "README.md: unknown extension '.md'"),
        (["memory://"], r"no manifest files directly inside.*/\*\*/\*\.parquet"),
        (["memory://in/a.parquet", "b.parquet"], "b.parquet: a manifest is either here or behind"),
    ],
)
def test_what_is_no_manifest_is_refused_by_its_url(
    memory: object, tmp_path: Path, words: list[str], told: str
) -> None:
    with pytest.raises(ManifestError, match=told):
        gather_files(words, tmp_path / "here")
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_file_that_changes_while_it_is_fetched_is_refused(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = type(memory).get_file

    def change(self: object, path: str, here: str) -> None:
        get(self, path, here)
        memory.pipe(path, parquet("x", "y"))

    monkeypatch.setattr(type(memory), "get_file", change)
    with pytest.raises(ManifestError, match=r"memory:///in/b\.parquet: changed while it was"):
        gather_files(["memory://in/b.parquet"], tmp_path / "here")


def test_a_bad_row_and_a_damaged_file_are_told_with_the_url(
    memory: fsspec.AbstractFileSystem,
) -> None:
    memory.pipe("/in/b.parquet", parquet("fine", ""))
    with pytest.raises(ManifestError, match=r"row 1 of memory:///in/b\.parquet"):
        dry_run(["memory://in/b.parquet"], TESTCARDS, None)
    memory.pipe("/in/b.parquet", parquet("fine")[:-9])
    with pytest.raises(ManifestError, match=r"memory:///in/b\.parquet: cannot be read as Parquet"):
        dry_run(["memory://in/b.parquet"], TESTCARDS, None)
    memory.pipe("/in/c.csv", b"prompt,steps\na,many\n")
    with pytest.raises(ManifestError, match=r"memory:///in/c\.csv"):
        dry_run(["memory://in/c.csv"], TESTCARDS, None)


def test_the_content_identifies_a_run_not_where_it_came_from(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    (tmp_path / "b.parquet").write_bytes(memory.cat("/in/b.parquet"))
    here = dry_run([tmp_path / "b.parquet"], TESTCARDS, None)
    there = dry_run(["memory://in/b.parquet"], TESTCARDS, None)
    local = dry_run([f"file://{tmp_path}/b.parquet"], TESTCARDS, None)
    assert here.fingerprint == there.fingerprint == local.fingerprint
    assert there.manifest == ("memory:///in/b.parquet",)
    assert local.sources[0].path == str(tmp_path / "b.parquet")


def test_a_web_address_is_read_and_its_query_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "p.parquet").write_bytes(parquet("a"))
    handler = partial(_Quiet, directory=str(tmp_path / "web"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/p.parquet"
        found = gather_files([f"{url}?signature=secret"], tmp_path / "here")
        assert (prompts(found.files), found.names) == (["a"], [url])
        with pytest.raises(Unreachable, match=r"gone\.parquet: no such file$") as refused:
            gather_files([f"{url[:-9]}gone.parquet?signature=secret"], tmp_path / "here")
        assert "secret" not in str(refused.value)
        server.shutdown()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"pip install 'batchgen\[gcs\]'"):
        gather_files(["gs://bucket/p.parquet"], tmp_path)


def test_a_text_table_is_converted_and_its_own_file_is_not_kept(
    memory: fsspec.AbstractFileSystem, tmp_path: Path
) -> None:
    memory.pipe("/in/c.csv", b"prompt\na\nb\n")
    plan = make_plan(["memory://in/c.csv"], TESTCARDS, None, tmp_path / "manifest.parquet")
    assert [one.path for one in plan.sources] == [str(tmp_path / "manifest.parquet")]
    assert prompts([tmp_path / "manifest.parquet"]) == ["a", "b"]
    assert not list((tmp_path / "manifest").iterdir())


@pytest.mark.slow
def test_a_run_from_a_bucket_needs_the_bucket_no_more(s3, tmp_path: Path) -> None:
    content = parquet(*"abcd")
    s3.put_object(Bucket="cats", Key="in/p.parquet", Body=content)
    run = tmp_path / "run"
    asked = ("submit", "s3://cats/in/p.parquet", "--rehearse", "--out", run)
    words = ("--set", "run.workers=1", "--set", "shards.pictures=2")
    assert ask(*asked, *words).code == 0
    assert "was planned before from the same inputs" in ask(*asked, *words).out
    s3.put_object(Bucket="cats", Key="in/p.parquet", Body=content.replace(b"a", b"z"))
    assert ask(*asked, *words).code == 2
    s3.delete_object(Bucket="cats", Key="in/p.parquet")
    moved = run.rename(tmp_path / "moved")
    assert open_run(moved).plan.pictures == 4
    assert [row["prompt"] for row in records(moved)] == list("abcd")
    assert ask("verify", moved, "--deep").code == 0
    plan = inspect_run(moved).plan
    assert plan.manifest == ("s3://cats/in/p.parquet",)
    [source] = plan.sources
    assert Path(source.path).parent == moved / ".batchgen" / "manifest"
