"""The hub's client over HTTP, against a server that answers as the hub does."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi, HfFileSystem, constants

from batchgen.dataset.push import hub as pushed_hub
from batchgen.manifest import gather_files
from tests.dataset.push.test_push import dataset
from tests.support.hub_server import HubServer
from tests.support.rehearsal import ask

REPO = "cats/two-cats"
URL = f"hf://datasets/{REPO}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A server, which huggingface_hub takes for the hub."""
    server = HubServer()
    server.start()
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    files = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
    HfFileSystem.clear_instance_cache()
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(pushed_hub, "HfApi", partial(HfApi, endpoint=server.url))
    yield server
    server.stop()


@pytest.mark.slow
def test_a_private_repository_gets_the_shards_in_one_commit_and_the_card_in_the_next(
    run: Path, hub: HubServer
) -> None:
    first = ask("push", run, URL)
    assert first.code == 0, first.err
    files = {path: hub.of(REPO)[path] for path in hub.of(REPO) if path != ".gitattributes"}
    assert (files, hub.private) == (dataset(run), {REPO})
    assert [len(commit) for commit in hub.commits] == [9, 5]
    assert {"data/000000.tar", "metadata/000000.parquet"} <= set(hub.commits[0])
    assert "index.json" in hub.commits[1]
    assert "hf_secret" not in first.out + first.err
    again = ask("push", run, URL)
    assert ("0 of them sent now" in again.out, len(hub.commits)) == (True, 2)


@pytest.mark.slow
def test_what_was_sent_and_not_committed_is_not_sent_again(run: Path, hub: HubServer) -> None:
    hub.patience = 0
    failed = ask("push", run, f"{URL}@next/set")
    assert (failed.code, len(hub.received)) == (1, 9)
    assert set(hub.of(REPO, "next")) == {".gitattributes"}
    hub.patience = None
    assert ask("push", run, f"{URL}@next/set").code == 0
    assert len(hub.received) == 10  # the contact sheet, which came later
    files = hub.of(REPO, "next")
    assert {path: files[f"set/{path}"] for path in dataset(run)} == dataset(run)


@pytest.mark.slow
def test_a_changed_file_on_the_hub_is_found_and_replaced_only_if_asked(
    run: Path, hub: HubServer
) -> None:
    assert ask("push", run, URL).code == 0
    tar = bytearray(hub.of(REPO)["data/000000.tar"])
    tar[5] ^= 1
    hub.of(REPO)["data/000000.tar"] = bytes(tar)
    refused = ask("push", run, URL)
    assert (refused.code, "data/000000.tar: of the same size" in refused.err) == (2, True)
    assert ask("push", run, URL, "--replace").code == 0
    assert hub.of(REPO)["data/000000.tar"] == dataset(run)["data/000000.tar"]
    assert hub.commits[2:] == [["index.json"], ["data/000000.tar"], ["index.json"]]


@pytest.mark.slow
@pytest.mark.parametrize("url", [f"{URL}@main/in/*.parquet", f"{URL}/in", f"{URL}/in/b.parquet"])
def test_manifests_are_read_from_the_hub(tmp_path: Path, hub: HubServer, url: str) -> None:
    table = tmp_path / "b.parquet"
    pq.write_table(pa.table({"prompt": ["a", "b"]}), table)
    hub.files[REPO, "main"] = {"README.md": b"-", "in/b.parquet": table.read_bytes()}
    found = gather_files([url], tmp_path / "here")
    assert [file.read_bytes() for file in found.files] == [table.read_bytes()]
    assert found.names[0].startswith("hf://datasets/cats/two-cats")
