"""LoRA: a low-rank change of weights, fused at load so that it costs nothing per step.

    W ← W + scale · (alpha / rank) · B·A        A [rank, in], B [out, rank]; in fp32, rounded once to W's type

`alpha` is the file's own, per linear (`….alpha`) or for all (`lora_adapter_metadata`), else the rank. With `use_rslora` the root of
the rank stands for the rank. Read are the names of diffusers and peft (`lora_A`, `lora_B`), of kohya's scripts and of BFL's own layout
(`lora_down`, `lora_up`), there also for linears they keep stacked (q, k, v in one). Whatever else a file holds (DoRA, LoHa, biases,
norms, T5) is refused: diffusers would drop some of it with a note in the log, and the pictures would not be what was asked for.
LoRA: https://arxiv.org/abs/2106.09685; rsLoRA: https://arxiv.org/abs/2312.03732
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from batchgen.errors import ModelError

_PARTS = {
    "lora_A.weight": "down",
    "lora_down.weight": "down",
    "lora_B.weight": "up",
    "lora_up.weight": "up",
    "alpha": "alpha",
}
_KEY = re.compile(rf"(?P<module>.+)\.(?P<part>{'|'.join(map(re.escape, _PARTS))})")
_ACCEPTED = "accepted are " + ", ".join(_PARTS)
# How files begin a linear's name → how `Family.lora_targets` does. The first that fits is taken.
_PREFIXES = {
    "lora_unet_": "bfl_",
    "diffusion_model.": "bfl_",
    "lora_te1_text_model_": "text_encoder_",
    "text_encoder.text_model.": "text_encoder_",
    "text_encoder.": "text_encoder_",
    "lora_te2_text_model_": "text_encoder_2_",
    "text_encoder_2.text_model.": "text_encoder_2_",
    "text_encoder_2.": "text_encoder_2_",
    "lora_transformer_": "transformer_",
    "transformer.": "transformer_",
    "": "transformer_",
}


_HOST = torch.device("cpu")


@dataclass(slots=True)
class _Change:
    """What a file holds for one linear, or for several stacked ones."""

    module: str
    down: Tensor | None = None
    up: Tensor | None = None
    alpha: Tensor | None = None


@dataclass(frozen=True, slots=True)
class _Delta:
    """strength · B·A, not multiplied yet: of all linears at once the products would take twice the model's memory."""

    up: Tensor
    down: Tensor
    strength: float

    @property
    def shape(self) -> tuple[int, int]:
        """(outputs, inputs)."""
        return self.up.shape[0], self.down.shape[1]

    def on(self, device: torch.device) -> Tensor:
        """fp32 [out, in]. The meta device, where weights are that a file has fused already, multiplies nothing."""
        return self.strength * (self.up.to(device).float() @ self.down.to(device).float())


def named_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """Every linear under its path with `_` for `.`: the spelling that all LoRA formats can be brought to."""
    return {
        name.replace(".", "_"): linear
        for name, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }


@torch.no_grad()
def fuse_lora(
    targets: Mapping[str, tuple[nn.Linear, ...]],
    path: Path,
    scale: float,
    device: torch.device = _HOST,
) -> int:
    """Add a LoRA to the linears it names; returns how many were changed. Fusing before anything else sees the weights is the caller's part.

    :param targets: normalised name → the linears whose rows, stacked, carry that name.
    :param device: where it is computed for weights that are on the host; they stay there. Others are computed where they are.
    :raises ModelError: the file holds something that would stay unapplied, or its shapes do not fit. No weight is touched then.
    """
    changes, metadata = _read(path)
    fitting: list[tuple[tuple[nn.Linear, ...], _Delta]] = []
    for change in changes:
        linears = targets.get(_normalise(change.module))
        if linears is None:
            raise ModelError(
                f"{path}: {change.module} names no linear of this model; is the LoRA made for another one?"
            )
        delta, wanted = (
            _delta(path, change, metadata),
            (sum(linear.out_features for linear in linears), linears[0].in_features),
        )
        if delta.shape != wanted:
            raise ModelError(f"{path}: {change.module} is {delta.shape}, the model's {wanted}")
        fitting.append((linears, delta))
    for linears, delta in fitting:
        where = device if linears[0].weight.device == _HOST else linears[0].weight.device
        product = delta.on(where) * scale
        for linear, rows in zip(
            linears, torch.split(product, [linear.out_features for linear in linears]), strict=True
        ):
            weight = linear.weight.data
            linear.weight.data = (weight.to(where).float() + rows).to(weight.device, weight.dtype)
    return sum(len(linears) for linears, _ in fitting)


def _read(path: Path) -> tuple[list[_Change], dict[str, Any]]:
    """The file's changes and its adapter metadata."""
    changes: dict[str, _Change] = {}
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            match = _KEY.fullmatch(key)
            if match is None:
                raise ModelError(
                    f"{path}: holds {key}, which is no plain LoRA weight and would stay unapplied; {_ACCEPTED}"
                )
            change = changes.setdefault(match["module"], _Change(match["module"]))
            setattr(change, _PARTS[match["part"]], file.get_tensor(key))
    if not changes:
        raise ModelError(f"{path}: holds no LoRA weights")
    return list(changes.values()), metadata


def _normalise(module: str) -> str:
    prefix = next(prefix for prefix in _PREFIXES if module.startswith(prefix))
    return _PREFIXES[prefix] + module.removeprefix(prefix).replace(".", "_")


def _delta(path: Path, change: _Change, metadata: dict[str, Any]) -> _Delta:
    """(alpha / rank) · B·A."""
    if change.down is None or change.up is None:
        raise ModelError(f"{path}: {change.module} has only one of its two matrices")
    if change.down.ndim != 2 or change.up.ndim != 2 or change.down.shape[0] != change.up.shape[1]:
        raise ModelError(
            f"{path}: {change.module}: {tuple(change.up.shape)} · {tuple(change.down.shape)} is no product of matrices"
        )
    rank = change.down.shape[0]
    component, _, module = change.module.partition(".")
    settings = {
        key.removeprefix(f"{component}."): value
        for key, value in metadata.items()
        if key.startswith(f"{component}.")
    }
    if settings.get("use_dora"):
        raise ModelError(
            f"{path}: a DoRA, which batchgen does not fuse; merge it into the checkpoint and save that"
        )
    alpha = (
        float(change.alpha)
        if change.alpha is not None
        else _alpha_of(module, settings, default=float(rank))
    )
    return _Delta(
        change.up, change.down, alpha / (rank**0.5 if settings.get("use_rslora") else rank)
    )


def _alpha_of(module: str, settings: dict[str, Any], default: float) -> float:
    """By peft's rule: a key of `alpha_pattern` that ends the module's path, else `lora_alpha`."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    return float(settings.get("lora_alpha", default))
