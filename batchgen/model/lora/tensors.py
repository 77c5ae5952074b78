"""The names of a LoRA file's tensors: `module.part`, with two matrices and an alpha a module.

Tools name the parts differently. A tensor of another part is what LoRA's formula does not have; the
message says what it seems to be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import ModelError

# A [rank, in] and B [out, rank] of the formula, by tool.
_DOWN = (
    "lora_A.weight",  # diffusers and peft
    "lora_A.default.weight",  # peft, from a model's state dict
    "lora_down.weight",  # kohya, ComfyUI, OneTrainer
    "lora.down.weight",  # diffusers until 0.20
    "lora_linear_layer.down.weight",  # the same, in text encoders
    "down.weight",  # XLabs
)
_UP = tuple(name.replace("down", "up").replace("lora_A", "lora_B") for name in _DOWN)
_PARTS = {**dict.fromkeys(_DOWN, "down"), **dict.fromkeys(_UP, "up"), "alpha": "alpha"}
_KEY = re.compile(rf"(?P<module>.+?)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})")

_MERGE = "merge it into the checkpoint with the tool that made it, and give that as model.path"
# What other tensors are, by a part of their names. The first that fits is taken.
_STRANGERS = {
    r"dora_scale|dora_layer|lora_magnitude_vector": f"it is a DoRA's; {_MERGE}",
    r"use_rslora": f"it says that modules act as alpha / √rank (rsLoRA); {_MERGE}",
    r"\.(hada_|oft_|boft_|glora|on_input|[ab][12]\.weight)|lokr_|vera_lambda": (
        f"it is LoHa's, LoKr's or of another method that is no product of two matrices; {_MERGE}"
    ),
    r"lora_mid": f"it is a convolution's; {_MERGE}",
    r"lora_embedding_": "it is a change of an embedding",
    r"\.diff_b$|\.b_norm$|\.bias$|_bias$": "it is a change of a bias",
    r"\.diff$|\.w_norm$|norm[^.]*\.(weight|scale)$": "it is a change of a whole weight",
    r"lora_[AB]\.[^.]+\.weight$": "it is an adapter of another name than default",
    r"scale_weight|scaled_fp8|\.weight_scale$": "it is a scale of quantized weights",
}


@dataclass(frozen=True, slots=True)
class Module:
    """The tensors of one module in a LoRA file, by their names there."""

    # B [out, rank] and A [rank, in]; "": the file lacks it.
    up: str = ""
    down: str = ""
    # A number.
    alpha: str = ""


def group_tensors(path: Path, keys: Iterable[str]) -> dict[str, Module]:
    """The name of each module → its tensors.

    :param path: the file, for messages.
    :raises ModelError: a tensor is none of LoRA's, or a module has a matrix twice.
    """
    found: dict[str, dict[str, str]] = {}
    strangers = []
    for key in sorted(keys):
        match = _KEY.fullmatch(key)
        if match is None:
            strangers.append(key)
            continue
        parts, part = found.setdefault(match["module"], {}), _PARTS[match["part"]]
        if part in parts:
            raise ModelError(f"{path}: holds {key} and {parts[part]}, which are the same matrix")
        parts[part] = key
    if strangers:
        raise ModelError(_explain(path, strangers))
    if not found:
        raise ModelError(f"{path}: holds no LoRA weights")
    return {name: Module(**parts) for name, parts in found.items()}


def _explain(path: Path, strangers: list[str]) -> str:
    """What the tensors are that cannot be fused."""
    first = strangers[0]
    kinds = (kind for pattern, kind in _STRANGERS.items() if re.search(pattern, first))
    more = f" and {len(strangers) - 1} more tensors" if len(strangers) > 1 else ""
    what = next(kinds, "it is no plain LoRA weight, whose names end in lora_A.weight and the like")
    return f"{path}: holds {first}{more}, which would stay unapplied: {what}"
