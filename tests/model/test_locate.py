"""What stands in a model's place is told, and where the model is."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from batchgen.errors import ModelError
from batchgen.model import TINY, locate, resolve
from batchgen.settings import Model


def refusal(path: Path | str, **model: str) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(path), **model))
    return str(error.value)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were asked of the hub, which gives none."""
    addresses: list[str] = []

    def answer(url: str, **_: object) -> None:
        addresses.append(url)
        raise OSError("no hub in tests")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    return addresses


FILES = {
    "flux.safetensors": ((128).to_bytes(8, "little") + b'{"a":1}', "a single-file checkpoint"),
    "flux.gguf": (b"GGUF\3\0\0\0", "a GGUF file, whose quantized weights batchgen does not read"),
    "model.ckpt": (b"PK\3\4....", "a pickled PyTorch file, which can run code"),
    "page.html": (b"<!DOCTYPE html>", "a web page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "words.txt": (b"words", "a file, not a folder"),
    "empty": (b"", "a file, not a folder"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_in_the_place_of_a_folder_is_told_with_what_it_is(name: str, tmp_path: Path) -> None:
    content, told = FILES[name]
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert f"{name}': {told}" in message
    assert "a folder in diffusers layout" in message


def test_a_single_file_inside_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "flux1-dev-Q8_0.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert "holds no model_index.json; flux1-dev-Q8_0.gguf in it is a GGUF file" in refusal(
        tmp_path
    )


def test_a_pipe_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model")
    assert "a pipe or a device, not a folder" in refusal(tmp_path / "model")


def test_a_link_to_nothing_is_told(tmp_path: Path) -> None:
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    assert "a link to nothing" in refusal(tmp_path / "model")


def test_the_root_of_a_hub_cache_points_at_its_snapshots(tmp_path: Path) -> None:
    root = tmp_path / "models--org--flux"
    snapshot = root / "snapshots" / ("0a" * 20)
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(TINY)
    for folder in (root, root / "snapshots", tmp_path):
        told = refusal(folder)
        assert "the model is in its snapshots, as it is a folder of the hub's cache: --set" in told
        assert str(snapshot) in told
    resolve(Model(path=str(snapshot)))


def test_a_component_points_at_its_model(model_folder: Path) -> None:
    told = refusal(model_folder / "transformer")
    assert f"the model is near it: --set model.path={model_folder}" in told


def test_a_folder_of_models_names_them(model_folder: Path) -> None:
    told = refusal(model_folder.parent)
    assert f"the model is near it: --set model.path={model_folder}" in told


@pytest.mark.parametrize("address", ["https://huggingface.co/{}/tree/main", "hf://{}"])
def test_an_address_of_the_hub_is_answered_with_the_id(address: str) -> None:
    told = refusal(address.format("black-forest-labs/FLUX.1-dev"))
    assert "--set model.path=black-forest-labs/FLUX.1-dev" in told


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("", "model.path is empty"),
        (" ", "model.path is empty"),
        ("s3://bucket/model", "an address; fetch the model to a folder here"),
        ("~nobody-has-this-name/model", "no such folder"),
        ("x" * 300, "no such folder"),
        ("x" * 300 + "/y/z", "no such folder"),
        ("a\0b", "no such folder"),
        ("README.md/x/y", "no such folder"),
    ],
)
def test_a_path_that_can_be_none_is_refused(path: str, told: str) -> None:
    assert told in refusal(path)


def test_a_folder_that_may_not_be_listed_is_told(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    assert "cannot be read: Permission denied." in refusal(model_folder)


@pytest.mark.parametrize("path", ["acme/model.safetensors", "acme/model-Q4.gguf"])
def test_a_file_that_is_not_there_is_not_asked_of_the_hub(path: str, asked: list[str]) -> None:
    assert "no such folder" in refusal(path)
    assert asked == []


def test_a_hub_id_is_one_although_a_folder_of_the_organization_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    (tmp_path / "acme" / "other").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    told = refusal("acme/model")
    assert asked == ["https://huggingface.co/acme/model/resolve/main/model_index.json"]
    assert "no such folder; acme/ holds other, and the hub did not give it: the hub did not" in told
    assert "(no hub in tests)" in told
    assert "hf download acme/model --local-dir FOLDER" in told


def test_a_folder_here_goes_before_the_hub(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    (model_folder.parent / "acme").mkdir()
    model_folder.rename(model_folder.parent / "acme" / "model")
    monkeypatch.chdir(model_folder.parent)
    assert resolve(Model(path="acme/model")).family == "flux"
    assert "applies to hub ids only" in refusal("acme/model", revision="main")
    assert asked == []


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture(params=["deaf", "absent"])
def silent_hub(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers, or that takes none."""
    monkeypatch.setattr(locate, "HUB_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "HF_HUB_OFFLINE": False,
            "ENDPOINT": address,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        if request.param == "absent":
            server.close()
        yield


@pytest.mark.usefixtures("silent_hub", "cache")
def test_a_hub_that_does_not_answer_is_tried_once() -> None:
    begin = time.monotonic()
    told = refusal("someone/some-model")
    assert time.monotonic() - begin < 3
    assert "the hub did not give it: the hub did not answer (" in told
    assert "its cache here has no whole copy" in told
    assert "hf download someone/some-model --local-dir FOLDER" in told


@pytest.mark.usefixtures("silent_hub")
def test_a_copy_in_the_cache_is_taken_if_the_hub_does_not_answer(cache: Path) -> None:
    commit, model = "0a" * 20, cache / "models--someone--some-model"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(commit)
    shutil.copytree(TINY, model / "snapshots" / commit)
    assert resolve(Model(path="someone/some-model")).identity == resolve(Model()).identity
