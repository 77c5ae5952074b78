"""Files that are missing, are none, or are there twice are named, and nothing waits for a pipe."""

import json
import os
from pathlib import Path

import pytest

from batchgen.errors import ModelError
from batchgen.model import resolve
from batchgen.settings import Model


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(folder)))
    return str(error.value)


READ = [
    "model_index.json",
    "scheduler/scheduler_config.json",
    "transformer/config.json",
    "transformer/diffusion_pytorch_model.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder_2/config.json",
    "text_encoder_2/model.safetensors",
    "tokenizer/tokenizer.json",
    "tokenizer/tokenizer_config.json",
    "tokenizer_2/tokenizer.json",
    "tokenizer_2/tokenizer_config.json",
]


def test_the_list_of_these_tests_is_complete(model_folder: Path) -> None:
    assert sorted(READ) == sorted(
        path.relative_to(model_folder).as_posix()
        for path in model_folder.rglob("*")
        if path.is_file()
    )


@pytest.mark.parametrize("name", READ)
def test_a_missing_file_is_named(name: str, model_folder: Path) -> None:
    (model_folder / name).unlink()
    told = refusal(model_folder)
    assert str((model_folder / name).parent) in told
    assert Path(name).name in told


@pytest.mark.parametrize("name", READ)
def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_read(
    name: str, model_folder: Path
) -> None:
    (model_folder / name).unlink()
    os.mkfifo(model_folder / name)
    told = f"{model_folder / name}: expected a file, found a pipe or a device"
    assert told in refusal(model_folder)


@pytest.mark.parametrize("name", READ)
def test_a_folder_in_the_place_of_a_file_is_refused(name: str, model_folder: Path) -> None:
    (model_folder / name).unlink()
    (model_folder / name).mkdir()
    assert f"{model_folder / name}: expected a file, found a folder" in refusal(model_folder)


@pytest.mark.parametrize("name", READ)
def test_a_link_to_a_file_that_is_gone_is_named(name: str, model_folder: Path) -> None:
    (model_folder / name).unlink()
    (model_folder / name).symlink_to(model_folder / "gone")
    told = refusal(model_folder)
    assert f"{model_folder / name}: a link to {model_folder / 'gone'}, which is missing" in told


@pytest.mark.parametrize("content", ["", "null", "[]", "3", '{"a": ', "\ud800", "[" * 99_999])
@pytest.mark.parametrize("name", [name for name in READ if name.endswith("g.json")])
def test_a_configuration_that_is_no_json_object_is_named(
    name: str, content: str, model_folder: Path
) -> None:
    (model_folder / name).write_text(content, errors="surrogatepass")
    assert refusal(model_folder).startswith(f"{model_folder / name}: ")


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"weight_map": None},
        {"weight_map": []},
        {"weight_map": {"a": 3}},
        {"weight_map": {"a": "../other/model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": "pytorch_model.bin"}},
    ],
)
def test_an_index_of_parts_that_names_no_files_is_refused(
    index: dict[str, object], model_folder: Path
) -> None:
    path = model_folder / "text_encoder_2" / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    path.with_name("model.safetensors").unlink()
    told = refusal(model_folder)
    assert f"{path}: expected a weight_map from tensors to the files beside it" in told


def test_weights_that_are_there_whole_and_in_parts_are_refused(model_folder: Path) -> None:
    """diffusers would read the parts, transformers the whole."""
    path = model_folder / "text_encoder_2" / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    told = f"{path.parent}: holds the weights twice, as model.safetensors and as the parts"
    assert told in refusal(model_folder)


def test_parts_without_their_index_are_refused(model_folder: Path) -> None:
    path = model_folder / "text_encoder_2" / "model.safetensors"
    path.rename(path.with_name("model-00001-of-00001.safetensors"))
    assert "model.safetensors.index.json is missing, which names the parts" in refusal(model_folder)


def test_weights_under_the_other_librarys_name_are_refused(model_folder: Path) -> None:
    path = model_folder / "vae" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("model.safetensors"))
    assert "no .safetensors weights of the plain name (diffusion_pytorch_model" in refusal(
        model_folder
    )


def test_a_file_that_may_not_be_read_is_named(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = Path.open

    def refuse(path: Path, *words: object, **more: object) -> object:
        if path.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return opened(path, *words, **more)

    monkeypatch.setattr(Path, "open", refuse)
    assert "model.safetensors: cannot be read: Permission denied" in refusal(model_folder)
