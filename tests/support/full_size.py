"""FLUX.1-dev, Stable Diffusion 3.5 and Qwen-Image as planning sees them: true configurations, and
weight files that are holes.
"""

import json
import math
import struct
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from benchmarks.random_flux import FULL, MODULES, write_configurations
from tests.support.sd3_folder import save_sd3
from tests.support.tiny_families import FAMILIES

FILES = dict.fromkeys(MODULES, "model.safetensors") | dict.fromkeys(
    ("transformer", "vae"), "diffusion_pytorch_model.safetensors"
)
SD3_MODULES: dict[str, Any] = {
    "transformer": diffusers.SD3Transformer2DModel,
    "vae": diffusers.AutoencoderKL,
    "text_encoder": transformers.CLIPTextModelWithProjection,
    "text_encoder_2": transformers.CLIPTextModelWithProjection,
    "text_encoder_3": transformers.T5EncoderModel,
}
QWEN_IMAGE_MODULES: dict[str, Any] = {
    "transformer": diffusers.QwenImageTransformer2DModel,
    "vae": diffusers.AutoencoderKLQwenImage,
    "text_encoder": transformers.Qwen2_5_VLForConditionalGeneration,
}
# What Qwen/Qwen-Image has other than the small model.
QWEN_IMAGE: dict[str, dict[str, Any]] = {
    "transformer": {
        "num_layers": 60,
        "num_attention_heads": 24,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "joint_attention_dim": 3584,
    },
    "vae": {"base_dim": 96},
    "text_encoder": {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
        "vocab_size": 152064,
        "layer_types": ["full_attention"] * 28,
    },
}
# What stabilityai's stable-diffusion-3.5-large and -medium have other than the small model.
SD3_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "large": {
        "num_layers": 38,
        "num_attention_heads": 38,
        "caption_projection_dim": 2432,
        "pos_embed_max_size": 192,
        "dual_attention_layers": [],
    },
    "medium": {
        "num_layers": 24,
        "num_attention_heads": 24,
        "caption_projection_dim": 1536,
        "pos_embed_max_size": 384,
        "dual_attention_layers": [*range(13)],
    },
}
_SD3_TRANSFORMER = {
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "sample_size": 128,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
    "vocab_size": 49408,
}
# Layers enough to have one of each kind in a place of its own.
_SHALLOW: dict[str, dict[str, Any]] = {
    "transformer": {"num_layers": 3, "num_single_layers": 3},
    "text_encoder": {"num_hidden_layers": 2},
    "text_encoder_2": {"num_hidden_layers": 2, "num_layers": 2},
    "text_encoder_3": {"num_layers": 2},
}


def write_full_size(folder: Path, *, shallow: bool = False, number_type: str = "BF16") -> Path:
    """FLUX.1-dev: a model folder of 34 GB that takes a megabyte of the disk.

    :param shallow: as wide, but of few layers.
    :param number_type: of all weights, as safetensors calls it.
    """
    write_configurations(folder)
    return _write(folder, MODULES, shallow=shallow, number_type=number_type)


def write_full_size_sd3(folder: Path, size: str, *, shallow: bool = False) -> Path:
    """Stable Diffusion 3.5, `large` or `medium`."""
    save_sd3(folder)
    changes = {
        "transformer": _SD3_TRANSFORMER | SD3_TRANSFORMERS[size],
        "vae": FULL["vae"] | {"scaling_factor": 1.5305, "shift_factor": 0.0609},
        "text_encoder": FULL["text_encoder"],
        "text_encoder_2": _CLIP_G,
        "text_encoder_3": FULL["text_encoder_2"],
    }
    for component, its in changes.items():
        _change(folder / component / "config.json", its)
    return _write(folder, SD3_MODULES, shallow=shallow)


def write_full_size_qwen_image(folder: Path, *, shallow: bool = False) -> Path:
    """Qwen-Image. The text encoder's eyes stay small: they are not read."""
    FAMILIES["qwen image"].save(folder)
    for component, its in QWEN_IMAGE.items():
        config = folder / component / "config.json"
        if component == "text_encoder":
            language = json.loads(config.read_text())["text_config"] | its
            if shallow:
                language |= {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}
            its = {"text_config": language}
        _change(config, its)
    return _write(folder, QWEN_IMAGE_MODULES, shallow=shallow)


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


def _change(config: Path, values: dict[str, Any]) -> None:
    config.write_text(json.dumps(json.loads(config.read_text()) | values, indent=2))


def _write(
    folder: Path, modules: dict[str, Any], *, shallow: bool, number_type: str = "BF16"
) -> Path:
    """Weight files for the configurations in a folder."""
    for component, kind in modules.items():
        path = folder / component / "config.json"
        known = json.loads(path.read_text())
        if shallow:
            fewer = {key: its for key, its in _SHALLOW.get(component, {}).items() if key in known}
            if known.get("dual_attention_layers"):
                fewer["dual_attention_layers"] = [0, 1]
            _change(path, fewer)
        config = json.loads(path.read_text())
        with torch.device("meta"):
            module = (
                kind.from_config(config)
                if hasattr(kind, "from_config")
                else kind(kind.config_class.from_dict(config))
            )
        stored = dict(module.named_parameters())
        kept = module.state_dict().keys()
        stored |= {name: buffer for name, buffer in module.named_buffers() if name in kept}
        shapes = {name: tuple(weight.shape) for name, weight in stored.items()}
        file = folder / component / FILES.get(component, "model.safetensors")
        write_sparse(file, shapes, number_type)
    return folder
