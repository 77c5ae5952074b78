"""FLUX.1-dev as planning sees it: true configurations, and weight files that are holes."""

import json
import math
import struct
from pathlib import Path

import torch

from benchmarks.random_flux import MODULES, write_configurations

FILES = dict.fromkeys(MODULES, "model.safetensors") | dict.fromkeys(
    ("transformer", "vae"), "diffusion_pytorch_model.safetensors"
)


def write_full_size(folder: Path) -> Path:
    """A model folder of 34 GB that takes a megabyte of the disk."""
    write_configurations(folder)
    for component, kind in MODULES.items():
        config = json.loads((folder / component / "config.json").read_text())
        with torch.device("meta"):
            module = (
                kind.from_config(config)
                if hasattr(kind, "from_config")
                else kind(kind.config_class.from_dict(config))
            )
        write_sparse(
            folder / component / FILES[component],
            {name: tuple(weight.shape) for name, weight in module.named_parameters()},
        )
    return folder


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of bf16 tensors that are never written."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
