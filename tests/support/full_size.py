"""Published models as planning sees them: true configurations, and weight files that are holes.

A model is a row of `MODELS`.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.device import Device
from batchgen.engine.precision.quantize import quantize_blocks
from batchgen.engine.precision.quantized_weights import QuantizedWeights
from benchmarks.random_flux import FULL, MODULES, write_configurations
from tests.support.sd3_folder import save_sd3
from tests.support.tiny_chroma import save_chroma
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_klein import save_klein
from tests.support.tiny_qwen_image import save_qwen_image
from tests.support.tiny_zimage import save_zimage

FILES = dict.fromkeys(MODULES, "model.safetensors") | dict.fromkeys(
    ("transformer", "vae"), "diffusion_pytorch_model.safetensors"
)
Configs = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FullSize:
    """A published model."""

    # Saves a small model of the family in a folder: the classes, and tokenizers whose numbers are
    # valid in any larger vocabulary.
    save: Callable[[Path], object]
    # What the published configurations have other than the small model's, by component.
    configs: Configs
    # The same for few layers, enough to have one of each kind in a place of its own.
    shallow: Configs


_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "sample_size": 1024,
}
_SHALLOW = {
    "transformer": {"num_layers": 3, "num_single_layers": 3},
    "text_encoder": {"num_hidden_layers": 2},
    "text_encoder_2": {"num_layers": 2},
}
_QWEN_IMAGE = {
    "num_layers": 60,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "joint_attention_dim": 3584,
}


def _qwen25_vl(layers: int) -> dict[str, Any]:
    """Qwen2.5-VL 7B. What sees stays small: it is not read."""
    rotary = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    language = {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": layers,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": rotary,
        "vocab_size": 152064,
    }
    return {"text_config": language}


_SD3_SHALLOW = {
    "transformer": {"num_layers": 3},
    "text_encoder": {"num_hidden_layers": 2},
    "text_encoder_2": {"num_hidden_layers": 2},
    "text_encoder_3": {"num_layers": 2},
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
}
# The layers of Qwen3 that FLUX.2 reads; it has more.
_QWEN3_USED = {"text_encoder": {"num_hidden_layers": 27}}

_QWEN3 = {
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "max_position_embeddings": 40960,
    # One for each layer; all are alike.
    "layer_types": None,
}
_QWEN3_4B = {"hidden_size": 2560, "intermediate_size": 9728}
_ZIMAGE = {
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "n_kv_heads": 30,
    "cap_feat_dim": 2560,
    "axes_dims": [32, 48, 48],
    "axes_lens": [1536, 512, 512],
}
# Mistral's of any width.
_MISTRAL = {
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 131072,
    "max_position_embeddings": 131072,
    "sliding_window": None,
}
_MINISTRAL_3B = _MISTRAL | {"hidden_size": 3072, "intermediate_size": 9216}
_MISTRAL_24B = _MISTRAL | {"hidden_size": 5120, "intermediate_size": 32768}
_ERNIE = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_layers": 36,
    "ffn_hidden_size": 12288,
    "in_channels": 128,
    "out_channels": 128,
    "text_in_dim": 3072,
    "rope_axes_dim": [32, 48, 48],
}
_FLUX2_DEV = {
    "in_channels": 128,
    "num_layers": 8,
    "num_single_layers": 48,
    "num_attention_heads": 48,
    "attention_head_dim": 128,
    "joint_attention_dim": 15360,
    "axes_dims_rope": [32, 32, 32, 32],
}


def _mistral3(text: dict[str, Any], layers: int) -> dict[str, Any]:
    return {"text_config": text | {"num_hidden_layers": layers}}


def _sd3(heads: int, layers: int, positions: int, dual: int) -> FullSize:
    """Stable Diffusion 3.5.

    :param dual: how many blocks, the first ones, have a second attention.
    """
    transformer = {
        "num_layers": layers,
        "num_attention_heads": heads,
        "attention_head_dim": 64,
        "caption_projection_dim": heads * 64,
        "pos_embed_max_size": positions,
        "dual_attention_layers": [*range(dual)],
        "joint_attention_dim": 4096,
        "pooled_projection_dim": 2048,
        "sample_size": 128,
    }
    configs = {
        "transformer": transformer,
        "vae": FULL["vae"] | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        "text_encoder": FULL["text_encoder"],
        "text_encoder_2": _CLIP_G,
        "text_encoder_3": FULL["text_encoder_2"],
    }
    shallow = _SD3_SHALLOW["transformer"] | {"dual_attention_layers": [0, 1] if dual else []}
    return FullSize(save_sd3, configs, _SD3_SHALLOW | {"transformer": shallow})


def _klein(heads: int, layers: int, singles: int, text: dict[str, int], **save: bool) -> FullSize:
    """FLUX.2 klein.

    :param text: the widths of its Qwen3.
    """
    transformer = {
        "in_channels": 128,
        "num_layers": layers,
        "num_single_layers": singles,
        "num_attention_heads": heads,
        "attention_head_dim": 128,
        "joint_attention_dim": 3 * text["hidden_size"],
        "axes_dims_rope": [32, 32, 32, 32],
    }
    configs = {
        "transformer": transformer,
        "vae": _VAE | {"latent_channels": 32},
        "text_encoder": _QWEN3 | text,
    }
    return FullSize(partial(save_klein, **save), configs, _SHALLOW | _QWEN3_USED)


MODELS = {
    "FLUX.1-dev": FullSize(write_configurations, FULL, _SHALLOW),
    "SD3.5-large": _sd3(heads=38, layers=38, positions=192, dual=0),
    "SD3.5-medium": _sd3(heads=24, layers=24, positions=384, dual=13),
    "FLUX.2-klein-4B": _klein(24, 5, 20, _QWEN3_4B, distilled=True),
    "FLUX.2-klein-base-9B": _klein(32, 8, 24, {"hidden_size": 4096, "intermediate_size": 12288}),
    "Qwen-Image": FullSize(
        save_qwen_image,
        {
            "transformer": _QWEN_IMAGE,
            "vae": {"base_dim": 96},
            "text_encoder": _qwen25_vl(layers=28),
        },
        {"transformer": {"num_layers": 3}, "text_encoder": _qwen25_vl(layers=2)},
    ),
    "FLUX.2-dev": FullSize(
        FAMILIES["flux2 dev"].save,
        {
            "transformer": _FLUX2_DEV,
            "vae": _VAE | {"latent_channels": 32},
            "text_encoder": _mistral3(_MISTRAL_24B, 40),
        },
        # The layers of Mistral's that are read; it has more.
        _SHALLOW | {"text_encoder": _mistral3(_MISTRAL_24B, 30)},
    ),
    "Chroma1-HD": FullSize(
        save_chroma,
        {
            "transformer": FULL["transformer"]
            | {"approximator_hidden_dim": 5120, "approximator_layers": 5},
            "vae": FULL["vae"],
            "text_encoder": FULL["text_encoder_2"],
        },
        _SHALLOW | {"text_encoder": {"num_layers": 2}},
    ),
    "ERNIE-Image": FullSize(
        FAMILIES["ernie image"].save,
        {
            "transformer": _ERNIE,
            "vae": _VAE | {"latent_channels": 32},
            "text_encoder": _mistral3(_MINISTRAL_3B, 26),
        },
        {"transformer": {"num_layers": 3}, "text_encoder": _mistral3(_MINISTRAL_3B, 3)},
    ),
    # Turbo's are the same.
    "Z-Image": FullSize(
        save_zimage,
        {"transformer": _ZIMAGE, "vae": _VAE, "text_encoder": _QWEN3 | _QWEN3_4B},
        {
            "transformer": {"n_layers": 3, "n_refiner_layers": 1},
            "text_encoder": {"num_hidden_layers": 3},
        },
    ),
}


def write_full_size(
    folder: Path, model: str = "FLUX.1-dev", *, shallow: bool = False, number_type: str = "BF16"
) -> Path:
    """A model folder of many GB that takes a few megabytes of the disk.

    :param model: of `MODELS`.
    :param shallow: as wide, but of few layers.
    :param number_type: of all weights, as safetensors calls it.
    """
    write_model(folder, model, shallow=shallow)
    for component, kind in _modules(folder).items():
        for small in (folder / component).glob("*.safetensors*"):
            small.unlink()
        config = json.loads((folder / component / "config.json").read_text())
        file = folder / component / FILES.get(component, "model.safetensors")
        write_sparse(file, _shapes(kind, config), number_type)
    return folder


def write_model(folder: Path, model: str, *, small: bool = False, shallow: bool = False) -> None:
    """A model folder of true configurations. It has no weights, or those of the small model."""
    known = MODELS[model]
    known.save(folder)
    for component, its in known.configs.items() if not small else ():
        path = folder / component / "config.json"
        fewer = known.shallow.get(component, {}) if shallow else {}
        path.write_text(json.dumps(json.loads(path.read_text()) | its | fewer, indent=2))


def _modules(folder: Path) -> dict[str, Any]:
    """The classes of the components that have weights."""
    index = json.loads((folder / "model_index.json").read_text())
    named = {name: its for name, its in index.items() if isinstance(its, list) and its[0]}
    kinds = {name: getattr(import_module(library), kind) for name, (library, kind) in named.items()}
    return {name: kind for name, kind in kinds.items() if issubclass(kind, torch.nn.Module)}


def _shapes(kind: Any, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Of the tensors that a component of this configuration is saved with."""
    module = _without_numbers(kind, config)
    stored = dict(module.named_parameters())
    kept = module.state_dict().keys()
    stored |= {name: buffer for name, buffer in module.named_buffers() if name in kept}
    return {name: tuple(weight.shape) for name, weight in stored.items()}


def _without_numbers(kind: Any, config: dict[str, Any]) -> Any:
    with torch.device("meta"):
        if hasattr(kind, "from_config"):
            return kind.from_config(config)
        # Some models are a part of what their configuration is of.
        own = config.get(getattr(kind.config_class, "base_config_key", ""), config)
        return kind(kind.config_class.from_dict(own))


def shapes_alone(folder: Path, component: str, kind: Any, device: Device) -> Any:
    """In the place of `load_module`: a module on the device "meta"."""
    config = json.loads((folder / component / "config.json").read_text())
    return torch.nn.Module.to(_without_numbers(kind, config).eval(), device.dtype)


def quantize_alone(how: QuantizedWeights, family: Any, _: Any, device: torch.device) -> int:
    """In the place of `QuantizedWeights.install`, which looks for weights without numbers."""
    return quantize_blocks(family.blocks, how.how, device)


def write_sparse(path: Path, shapes: dict[str, tuple[int, ...]], number_type: str = "BF16") -> None:
    """A safetensors file of 16-bit tensors that are never written."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": number_type, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(file.tell() + end)
