"""A folder in diffusers layout: its components, and the files that loading reads.

Loading reads safetensors of the plain name. Further precisions (`model.fp16.safetensors`) and
formats of the same weights may be beside them, and are left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError

# Names of weight files: of transformers, of diffusers.
_WEIGHTS = ("model", "diffusion_pytorch_model")
# Files of a component that loading reads.
_LOADED = (
    *("*.json", "*.txt", "*.model"),
    *(f"{name}{part}.safetensors" for name in _WEIGHTS for part in ("", "-?????-of-?????")),
)


def wanted(components: Iterable[str]) -> list[str]:
    """Patterns of the files on the hub that loading reads: many repositories repeat the weights."""
    files = (f"{component}/{pattern}" for component in components for pattern in _LOADED)
    return ["model_index.json", *files]


def named_components(folder: Path) -> list[str]:
    """Component folders that the index names; `[null, null]` stands for an intended absence."""
    index = read_json(folder / "model_index.json")
    return [name for name, value in index.items() if isinstance(value, list) and value and value[0]]


def component_files(path: Path) -> list[Path]:
    """The files of a component that loading reads.

    :raises ModelError: the component is missing, quantized, or lacks weights in safetensors.
    """
    if not path.is_dir():
        raise ModelError(
            f"{path.parent}: model_index.json names {path.name}/, which is missing; "
            "fetch the model again."
        )
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    if "quantization_config" in config:
        raise ModelError(
            f"{path}: an already quantized checkpoint, which batchgen does not load; "
            "give the bf16 one."
        )
    weights = {file.name for file in weight_files(path)}
    if config and not weights:
        raise ModelError(
            f"{path}: no .safetensors weights of the plain name (model.safetensors, "
            "diffusion_pytorch_model.safetensors, or their parts); pickled .bin and variants such "
            "as .fp16 are never loaded. Convert: pipe.save_pretrained('NEW-FOLDER')"
        )
    for index in (path / f"{name}.safetensors.index.json" for name in _WEIGHTS):
        named = set(read_json(index)["weight_map"].values()) if index.is_file() else set()
        if missing := ", ".join(sorted(named - weights)):
            raise ModelError(
                f"{path}: {missing} missing, named by {index.name}; fetch the model again."
            )
    return [file for file in path.iterdir() if _is_loaded(file) and file.is_file()]


def weight_files(component: Path) -> list[Path]:
    """A component's weights, as loading finds them."""
    return [file for file in component.glob("*.safetensors") if _is_loaded(file)]


def _is_loaded(file: Path) -> bool:
    return any(fnmatchcase(file.name, pattern) for pattern in _LOADED)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    :raises ModelError: there is none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return content
