"""What a model and a LoRA are called, which they are, and under which licence."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from batchgen.model import TINY, digest, list_ingredients, resolve
from batchgen.model.ingredients import public_name
from batchgen.settings import Lora, Model

LINEAR = "transformer.transformer_blocks.0.attn.to_q"


def write_lora(path: Path, fill: float, **metadata: str) -> Path:
    matrix = np.full((2, 128), fill, np.float32)
    tensors = {f"{LINEAR}.lora_A.weight": matrix, f"{LINEAR}.lora_B.weight": matrix.T.copy()}
    path.parent.mkdir(exist_ok=True)
    save_file(tensors, path, metadata)
    return path


def test_the_embedded_model_has_a_name_and_our_licence() -> None:
    model = Model()
    (one,) = list_ingredients(model, resolve(model))
    assert (one.kind, one.name, one.family, one.license) == ("model", "tiny", "flux", "apache-2.0")


def test_a_folder_is_called_by_its_name_and_what_it_says_and_is_told_apart_by_its_content(
    model_folder: Path, tmp_path: Path
) -> None:
    (model_folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    model = Model(path=str(model_folder))
    (one,) = list_ingredients(model, resolve(model))
    assert (one.name, one.license) == (model_folder.name, "cc-by-nc-4.0")
    embedded = Model()
    assert one.digest == list_ingredients(embedded, resolve(embedded))[0].digest
    (model_folder / "scheduler" / "scheduler_config.json").write_text(
        (TINY / "scheduler" / "scheduler_config.json").read_text() + "\n"
    )
    assert list_ingredients(model, resolve(model))[0].digest != one.digest


def test_loras_stand_in_their_order_each_with_its_own_licence(tmp_path: Path) -> None:
    own = write_lora(tmp_path / "a" / "style.safetensors", 0.5, **{"modelspec.license": "mit"})
    (tmp_path / "a" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    beside = write_lora(tmp_path / "b" / "turbo.safetensors", 0.25)
    (tmp_path / "b" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    silent = write_lora(tmp_path / "c" / "last.safetensors", 0.125)
    files = (own, beside, silent)
    model = Model(
        lora=tuple(
            Lora(path=str(file), scale=scale)
            for file, scale in zip(files, (0.5, 1.0, 2.0), strict=True)
        )
    )
    first, *loras = list_ingredients(model, resolve(model))
    assert first.kind == "model"
    assert first.digest == list_ingredients(Model(), resolve(Model()))[0].digest
    assert [(one.kind, one.name, one.license) for one in loras] == [
        ("LoRA", "style.safetensors", "mit"),
        ("LoRA", "turbo.safetensors", "cc-by-nc-4.0"),
        ("LoRA", "last.safetensors", ""),
    ]
    assert [one.strength for one in loras] == [0.5, 1.0, 2.0]
    assert [one.digest for one in loras] == [digest(file) for file in files]


CACHED = "/home/me/.cache/huggingface/hub/models--org--na-me.1/snapshots/abc123"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (CACHED, "org/na-me.1@abc123"),
        (f"{CACHED}/lora/turbo.safetensors", "org/na-me.1@abc123/lora/turbo.safetensors"),
        ("/home/me/models/mine", "mine"),
        ("/home/me/models--org--name", "models--org--name"),
    ],
)
def test_a_hub_model_is_called_by_its_id_and_commit_and_no_path_is_told(
    path: str, name: str
) -> None:
    assert public_name(Path(path)) == name
