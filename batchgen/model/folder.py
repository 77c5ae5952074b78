"""A folder in diffusers layout: the files that loading reads.

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

# Library → its name for weight files.
_WEIGHTS = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}
# Files of a component that loading reads.
LOADED = (
    *("*.json", "*.txt", "*.model", "*.jinja"),
    *(
        f"{name}{part}.safetensors"
        for name in _WEIGHTS.values()
        for part in ("", "-?????-of-?????")
    ),
)


def wanted(components: Iterable[str]) -> list[str]:
    """Patterns of the files on the hub that loading reads, and of those that tell the licence.

    Many repositories repeat the weights.
    """
    files = (f"{component}/{pattern}" for component in components for pattern in LOADED)
    return ["model_index.json", "README.md", "LICENSE*", *files]


def named_components(folder: Path) -> list[str]:
    """Component folders that the index names; `[null, null]` stands for an intended absence."""
    index = read_json(folder / "model_index.json")
    return [name for name, value in index.items() if isinstance(value, list) and value and value[0]]


def component_files(path: Path) -> list[Path]:
    """The files of a component that loading reads, or that are of their names.

    :raises ModelError: the component is missing, or holds something of such a name that is no file.
    """
    if not path.is_dir():
        raise ModelError(
            f"{path.parent}: model_index.json names {path.name}/, which is missing; "
            "fetch the model again."
        )
    files = [file for file in path.iterdir() if _is_loaded(file)]
    for file in files:
        check_file(file)
    return files


def weight_files(component: Path, library: str) -> list[Path]:
    """A component's weights, as loading finds them.

    :param library: "diffusers" or "transformers".
    :raises ModelError: there are none, some parts are missing, or there are two sets of weights.
    """
    name = _WEIGHTS[library]
    whole, index = (component / f"{name}.safetensors{end}" for end in ("", ".index.json"))
    if whole.exists() and index.exists():
        raise ModelError(
            f"{component}: holds the weights twice, as {whole.name} and as the parts that "
            f"{index.name} names. Move one of these two files away."
        )
    if index.exists():
        return _parts(index)
    if whole.exists():
        return [whole]
    if parts := sorted(component.glob(f"{name}-?????-of-?????.safetensors")):
        raise ModelError(
            f"{component}: {index.name} is missing, which names the parts of the weights "
            f"({parts[0].name}, ...). Fetch the model again."
        )
    raise ModelError(
        f"{component}: no .safetensors weights of the plain name ({whole.name}, or its parts with "
        f"{index.name}); pickled .bin and variants such as .fp16 are never loaded. "
        "Convert: pipe.save_pretrained('NEW-FOLDER')"
    )


def _parts(index: Path) -> list[Path]:
    """The files that the index of a component's weights names."""
    named = read_json(index).get("weight_map")
    if not isinstance(named, dict) or not all(
        isinstance(file, str) and _is_loaded(Path(file)) and Path(file).name == file
        for file in named.values()
    ):
        raise ModelError(
            f"{index}: expected a weight_map from tensors to the files beside it; fetch the file "
            "again."
        )
    files = [index.parent / file for file in sorted(set(named.values()))]
    if missing := ", ".join(file.name for file in files if not file.exists()):
        raise ModelError(
            f"{index.parent}: {missing} missing, named by {index.name}; fetch the model again."
        )
    return files


def _is_loaded(file: Path) -> bool:
    return any(fnmatchcase(file.name, pattern) for pattern in LOADED)


def expand_home(given: str) -> Path:
    """A path as people write it: `~` is their home. A user who is not known has none."""
    try:
        return Path(given).expanduser()
    except RuntimeError:
        return Path(given)


def check_file(path: Path) -> None:
    """Check that a path leads to a file that can be read. Of a pipe, reading would never end.

    :raises ModelError: there is nothing, or something else, or it may not be read.
    """
    if path.is_symlink() and not path.exists():
        raise ModelError(f"{path}: a link to {path.readlink()}, which is missing; fetch it again.")
    if not path.exists():
        raise ModelError(f"{path}: missing; fetch the model again.")
    if not path.is_file():
        what = "a folder" if path.is_dir() else "a pipe or a device"
        raise ModelError(f"{path}: expected a file, found {what}; put the file there.")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}.") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    :raises ModelError: there is none.
    """
    check_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object")
    return content
