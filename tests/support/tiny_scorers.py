"""Small models that score pictures, of every kind that batchgen takes, with random weights."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from batchgen.model import TINY

SIDE = 32
_BODY: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_SEES = {"image_size": SIDE, "patch_size": 8}
_FLAT = _BODY | _SEES
# Sections of several stages.
_STAGES = {"depths": [1, 1], "image_size": SIDE, "patch_size": 4}
LABELS = {0: "normal", 1: "nsfw", 2: "<b>drawing</b>"}

# Class → its configuration's class and values.
CLASSIFIERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ViTForImageClassification": ("ViTConfig", _FLAT),
    "DeiTForImageClassification": ("DeiTConfig", _FLAT),
    "BeitForImageClassification": ("BeitConfig", _FLAT),
    "Dinov2ForImageClassification": ("Dinov2Config", _FLAT | {"mlp_ratio": 2}),
    "SwinForImageClassification": (
        "SwinConfig",
        _STAGES | {"embed_dim": 8, "num_heads": [1, 2], "window_size": 4},
    ),
    "Swinv2ForImageClassification": (
        "Swinv2Config",
        _STAGES | {"embed_dim": 8, "num_heads": [1, 2], "window_size": 4},
    ),
    "ConvNextForImageClassification": (
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": SIDE},
    ),
    "ConvNextV2ForImageClassification": (
        "ConvNextV2Config",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "image_size": SIDE},
    ),
    "CLIPForImageClassification": ("CLIPConfig", {"vision_config": _FLAT}),
    "SiglipForImageClassification": ("SiglipConfig", {"vision_config": _FLAT}),
}


def save_similarity(folder: Path, class_name: str = "CLIPModel") -> Path:
    """A CLIP or SigLIP."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(TINY / "tokenizer")
    text = _BODY | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "projection_size": 16,
    }
    clip = class_name == "CLIPModel"
    kind = transformers.CLIPConfig if clip else transformers.SiglipConfig
    config = kind(text_config=text, vision_config=_FLAT, projection_dim=16)
    _save(folder, getattr(transformers, class_name), config)
    tokenizer.save_pretrained(folder)
    _save_preparation(folder, "CLIP" if clip else "Siglip")
    return folder


def save_classifier(
    folder: Path, class_name: str = "ViTForImageClassification", **changes: Any
) -> Path:
    """A classifier of three labels.

    :param changes: to its configuration.
    """
    config_name, values = CLASSIFIERS[class_name]
    labels = {"id2label": LABELS, "label2id": {label: key for key, label in LABELS.items()}}
    config = getattr(transformers, config_name)(**values | labels | changes)
    _save(folder, getattr(transformers, class_name), config)
    _save_preparation(folder, "ViT")
    return folder


def _save(folder: Path, kind: Any, config: Any) -> None:
    """Weights that let pictures differ: new ones hardly do."""
    torch.manual_seed(0)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)


def _save_preparation(folder: Path, name: str) -> None:
    size = {"height": SIDE, "width": SIDE}
    values: dict[str, Any] = {"image_processor_type": f"{name}ImageProcessor", "size": size}
    if name == "CLIP":
        values |= {"size": {"shortest_edge": SIDE}, "crop_size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(values))
