"""FLUX.1-dev at full size with random weights, made on the device in seconds: speed is measured
without a download.

The transformer (11.9 billion parameters), T5-XXL's encoder (4.8), CLIP-L (0.12) and the VAE (0.08)
have the shapes of the published model; tokenizers and noise levels are the embedded model's, whose
token numbers are valid in any larger vocabulary. The same folder, device and type give the same
weights, to batchgen's engine and to diffusers' pipeline alike.

Weights come from PyTorch's own initialisation of each layer, uniform within ±1/√inputs: a linear
shrinks what it is given, so that activations stay finite and ordinary through any depth. What such
a model paints means nothing, and neither do the distances that step caches measure: skipped steps
must be given (`policy = "replay"`), not found.

`small` has the shapes of the embedded model: the same code in a second on a CPU.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from batchgen.engine.device import Device
from batchgen.engine.families.family import Family
from batchgen.engine.families.flux import Flux
from batchgen.engine.families.flux2 import Flux2
from batchgen.engine.families.loading import load_scheduler, load_tokenizer, without_transformer
from batchgen.model import TINY
from batchgen.model.checkpoint import Checkpoint

FULL: dict[
    str, dict[str, Any]
] = {  # what black-forest-labs/FLUX.1-dev has other than the embedded model
    "transformer": {
        "num_layers": 19,
        "num_single_layers": 38,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 768,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
        "norm_num_groups": 32,
        "mid_block_add_attention": True,
        "sample_size": 1024,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    },
    "text_encoder": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "projection_dim": 768,
        "vocab_size": 49408,
    },
    "text_encoder_2": {
        "d_model": 4096,
        "d_ff": 10240,
        "d_kv": 64,
        "num_heads": 64,
        "num_layers": 24,
        "vocab_size": 32128,
    },
}
MODULES: dict[str, Any] = {
    "transformer": diffusers.FluxTransformer2DModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModel,
    "text_encoder_2": transformers.T5EncoderModel,
}


def write_configurations(folder: Path, *, small: bool = False) -> Checkpoint:
    """A model folder in diffusers layout that has everything but weights, as a checkpoint."""
    shutil.copytree(
        TINY, folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True
    )
    for component, changes in ({} if small else FULL).items():
        file = folder / component / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes, indent=2))
    return Checkpoint(folder, "flux", {"weights": "random"})


def random_module(folder: Path, component: str, kind: Any, device: Device) -> Any:
    """What `load_module` would load, with weights made up on the device, always the same ones."""
    config = json.loads((folder / component / "config.json").read_text())
    torch.manual_seed(zlib.crc32(component.encode()))
    with torch.device(device.kind), _default_dtype(device.dtype):
        module = (
            kind.from_config(config)
            if hasattr(kind, "from_config")
            else kind(kind.config_class.from_dict(config))
        )
    return module.eval().requires_grad_(requires_grad=False)


def random_family(
    checkpoint: Checkpoint,
    device: Device,
    max_sequence_length: int,
    transformer: bool,
    settled: Collection[str] = (),  # noqa: ARG001 - weights are made on the device
) -> Family:
    """For `build_engine(…, load=random_family)`."""
    load = random_module if transformer else without_transformer(random_module)
    family = {"flux": Flux, "flux2": Flux2}[checkpoint.family]
    return family(checkpoint.folder, device, max_sequence_length, load)


def random_pipeline(folder: Path, device: Device) -> Any:
    """Diffusers' `FluxPipeline` of the same weights."""
    modules = {
        component: random_module(folder, component, kind, device)
        for component, kind in MODULES.items()
    }
    tokenizers = {
        component: load_tokenizer(folder, component) for component in ("tokenizer", "tokenizer_2")
    }
    return diffusers.FluxPipeline(scheduler=load_scheduler(folder), **modules, **tokenizers)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
