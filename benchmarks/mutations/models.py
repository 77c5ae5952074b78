"""Mutated model folders: configurations, tokenizers and weights of the embedded model.

An accepted model is loaded, and paints one small picture.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from batchgen.model import TINY
from benchmarks.mutations.hostile import (
    TEXTS,
    mutate_file,
    mutated,
    mutated_bytes,
    mutated_json,
    strange_file,
    value,
)
from benchmarks.mutations.painting import SETTINGS, paint
from benchmarks.mutations.settings import prompts
from benchmarks.mutations.trial import Trial


def prepare(folder: Path) -> None:
    """Copy the embedded model to where inputs lie, and load what loading a model needs.

    Loading takes seconds before the first input, whose time is measured.
    """
    shutil.copytree(TINY, folder / "model")
    paint(SETTINGS)


def trial(chance: Random, folder: Path, prepared: Path) -> Trial:
    """A copy of the embedded model with one mutation, planned."""
    model = folder / "model"
    shutil.copytree(prepared / "model", model, copy_function=os.link)
    files = sorted(path for path in model.rglob("*") if path.is_file())
    configs = [path for path in files if path.suffix == ".json" and path.name != "tokenizer.json"]
    weights = [path for path in files if path.suffix == ".safetensors"]
    kind = chance.randrange(10)
    if kind < 5:
        path = chance.choice(configs)
        about = mutate_file(chance, path, mutated_json, strange=0.05)
    elif kind < 7:
        path = chance.choice(weights)
        about = mutate_file(chance, path, mutated_safetensors, strange=0.05)
    elif kind == 7:
        path = chance.choice(files)
        about = strange_file(chance, path)
    elif kind == 8:
        path = chance.choice([path for path in files if path.name == "tokenizer.json"])
        about = mutate_file(chance, path, mutated_json)
    else:
        path, about = model, _change_folder(chance, model)
    settings = [*SETTINGS, f"model.path={model}"]
    words = [word for one in settings for word in ("--set", one)]
    where = path.relative_to(model).parent
    return Trial(
        f"{where}/{about}",
        [["plan", prompts(folder), *words]],
        wrong_if_accepted=lambda _: paint(settings)[1],
    )


def mutated_safetensors(chance: Random, data: bytes) -> tuple[bytes, str]:
    """A safetensors file with one mutation of its bytes, its header or its tensors' names."""
    kind = chance.randrange(10)
    if kind < 3:
        return mutated_bytes(chance, data)
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    names = [name for name in header if name != "__metadata__"]
    name = chance.choice(names)
    if kind == 3:
        new, about = mutated(chance, header)
    elif kind == 4:
        new_name = chance.choice((*TEXTS[:40], f"{name}.lora_A", "scale_weight", name.upper()))
        new = {new_name if key == name else key: entry for key, entry in header.items()}
        about = f"{name} renamed {new_name[:40]!r}"
    elif kind == 5:
        return _with_tensor(chance, header, body)
    elif kind == 6:
        new, about = _reshaped(header, name), f"{name} reshaped"
    elif kind == 7:
        new = header | {"__metadata__": value(chance)}
        about = f"metadata {new['__metadata__']!r}"[:60]
    elif kind == 8:
        given = chance.choice((2**63, 2**64 - 1, length + 1, length - 1, 0, 100_000_001))
        return struct.pack("<Q", given % 2**64) + data[8:], f"a header of {given} bytes"
    else:
        old = header[name]["dtype"]
        kind_name = chance.choice(("F16", "BF16", "F64", "I8", "F8_E4M3", "BOOL", "X", old.lower()))
        new = header | {name: header[name] | {"dtype": kind_name}}
        about = f"{name} of type {kind_name}"
    text = json.dumps(new).encode()
    return struct.pack("<Q", len(text)) + text + body, about


def _with_tensor(chance: Random, header: dict[str, Any], body: bytes) -> tuple[bytes, str]:
    """A further tensor, which the model may not use."""
    names = ("scale_weight", "x.lora_A.weight", "transformer_blocks.99.norm1.linear.weight", "foo")
    name = chance.choice((*names, "position_ids", "\x1b[31m"))
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [len(body), len(body) + 16]}
    text = json.dumps(header | {name: entry}).encode()
    new = struct.pack("<Q", len(text)) + text + body + np.ones(4, np.float32).tobytes()
    return new, f"a further tensor {name!r}"


def _reshaped(header: dict[str, Any], name: str) -> dict[str, Any]:
    shape = header[name]["shape"]
    return header | {
        name: header[name] | {"shape": [*shape[1:], shape[0]] if len(shape) > 1 else [1, *shape]}
    }


def _change_folder(chance: Random, model: Path) -> str:
    """Take something away from a model folder, or put something beside."""
    folders = sorted(path for path in model.iterdir() if path.is_dir())
    component = chance.choice(folders)
    kind = chance.randrange(6)
    if kind == 0:
        shutil.rmtree(component)
        return f"no {component.name}/"
    if kind == 1:
        other = chance.choice(folders)
        swapped = component.with_name("swapped")
        component.rename(swapped)
        if other != component:
            other.rename(component)
            swapped.rename(other)
        return f"{component.name}/ and {other.name}/ exchanged"
    if kind == 2:
        return f"{component.name}/ is {strange_file(chance, component)}"
    if kind == 3:
        file = chance.choice(
            ("model.safetensors", "model-00001-of-00002.safetensors", "x.bin", "config.json")
        )
        (component / file).unlink(missing_ok=True)
        (component / file).write_bytes(chance.choice((b"", b"{}", b"junk" * 100)))
        return f"{component.name}/{file} added"
    if kind == 4:
        index = {"weight_map": value(chance)} if chance.random() < 0.5 else value(chance)
        name = chance.choice(("model", "diffusion_pytorch_model"))
        (component / f"{name}.safetensors.index.json").write_text(json.dumps(index))
        return f"{component.name}/ with an index {str(index)[:40]}"
    for path in component.iterdir():
        path.unlink()
    return f"{component.name}/ emptied"
