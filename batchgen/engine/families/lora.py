"""LoRA: a low-rank change of weights, fused at load so that it costs nothing per step.

    W ← W + scale · (alpha / rank) · B·A        A [rank, in], B [out, rank]; in fp32, rounded once

`alpha` is the file's own, for one linear (`….alpha`) or for all (`lora_adapter_metadata`), else the
rank. With `use_rslora` the root of the rank takes the rank's place.

Accepted are the names of diffusers and peft (`lora_A`, `lora_B`), of kohya's scripts and of BFL's
own layout (`lora_down`, `lora_up`), which stack some linears (q, k and v in one). Everything else
in a file is refused (DoRA, LoHa, biases, norms, T5): diffusers would drop some of it with a note in
the log, and the pictures would not be what was asked for.
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
# How a linear's name begins in a file → in `Family.lora_targets`. The first that fits is taken.
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


@dataclass(frozen=True, slots=True)
class _Delta:
    """strength · B·A, not multiplied yet: all products together would be as large as the model."""

    # B of the formula.
    up: Tensor
    # A of the formula.
    down: Tensor
    strength: float

    def on(self, device: torch.device) -> Tensor:
        """fp32 [out, in]. On the meta device nothing is multiplied."""
        return self.strength * (self.up.to(device).float() @ self.down.to(device).float())


def name_linears(components: Mapping[str, nn.Module]) -> dict[str, tuple[nn.Linear, ...]]:
    """Every linear under its component's name and its path, with `_` for `.`.

    Names of all LoRA formats can be brought to this spelling. A text encoder's `text_model` is left
    out, because some formats leave it out.
    """
    return {
        f"{component}_{path.replace('.', '_').removeprefix('text_model_')}": (linear,)
        for component, module in components.items()
        for path, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }


@torch.no_grad()
def fuse_lora(
    targets: Mapping[str, tuple[nn.Linear, ...]],
    path: Path,
    scale: float,
    device: torch.device = _HOST,
) -> int:
    """Add a LoRA to the linears that it names, and count them.

    The caller fuses before anything else sees the weights.

    :param targets: normalised name → the linears whose rows, stacked, carry that name.
    :param device: computes the change of weights on the host, which stay there. Weights elsewhere
        (on the meta device, if a file has them fused already) are changed where they are.
    :raises ModelError: the file holds something that would stay unapplied, or its shapes do not
        fit. No weight is touched then.
    """
    fitting = _fit(targets, path)
    for linears, delta in fitting:
        where = device if linears[0].weight.device == _HOST else linears[0].weight.device
        changes = torch.split(delta.on(where) * scale, [linear.out_features for linear in linears])
        for linear, change in zip(linears, changes, strict=True):
            weight = linear.weight.data
            linear.weight.data = (weight.to(where).float() + change).to(weight.device, weight.dtype)
    return sum(len(linears) for linears, _ in fitting)


def _fit(
    targets: Mapping[str, tuple[nn.Linear, ...]], path: Path
) -> list[tuple[tuple[nn.Linear, ...], _Delta]]:
    """The linears that a file names, and what it adds to their stacked weights."""
    modules, metadata = _read(path)
    fitting = []
    for module, parts in modules.items():
        linears = targets.get(_normalise(module))
        if linears is None:
            raise ModelError(
                f"{path}: {module} names no linear of this model; is the LoRA made for another one?"
            )
        delta = _delta(path, module, parts, metadata)
        found = delta.up.shape[0], delta.down.shape[1]
        wanted = sum(linear.out_features for linear in linears), linears[0].in_features
        if found != wanted:
            raise ModelError(f"{path}: {module} is {found}, the model's {wanted}")
        fitting.append((linears, delta))
    return fitting


def _read(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Each module's tensors `down`, `up` and `alpha`, and the file's adapter metadata."""
    modules: dict[str, dict[str, Tensor]] = {}
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            match = _KEY.fullmatch(key)
            if match is None:
                raise ModelError(
                    f"{path}: holds {key}, which is no plain LoRA weight and would stay unapplied; "
                    f"accepted are {', '.join(_PARTS)}"
                )
            parts = modules.setdefault(match["module"], {})
            parts[_PARTS[match["part"]]] = file.get_tensor(key)
    if not modules:
        raise ModelError(f"{path}: holds no LoRA weights")
    return modules, metadata


def _normalise(module: str) -> str:
    prefix = next(prefix for prefix in _PREFIXES if module.startswith(prefix))
    return _PREFIXES[prefix] + module.removeprefix(prefix).replace(".", "_")


def _delta(
    path: Path, module: str, parts: Mapping[str, Tensor], metadata: dict[str, Any]
) -> _Delta:
    """(alpha / rank) · B·A."""
    if "down" not in parts or "up" not in parts:
        raise ModelError(f"{path}: {module} has only one of its two matrices")
    down, up = parts["down"], parts["up"]
    if down.ndim != 2 or up.ndim != 2 or down.shape[0] != up.shape[1]:
        shapes = f"{tuple(up.shape)} · {tuple(down.shape)}"
        raise ModelError(f"{path}: {module}: {shapes} is no product of matrices")
    component, _, linear = module.partition(".")
    prefix, rank = f"{component}.", down.shape[0]
    settings = {
        key.removeprefix(prefix): value for key, value in metadata.items() if key.startswith(prefix)
    }
    if settings.get("use_dora"):
        raise ModelError(
            f"{path}: a DoRA, which batchgen does not fuse; "
            "merge it into the checkpoint and save that"
        )
    alpha = float(parts["alpha"]) if "alpha" in parts else _alpha(linear, settings, rank)
    return _Delta(up, down, alpha / (rank**0.5 if settings.get("use_rslora") else rank))


def _alpha(module: str, settings: dict[str, Any], rank: int) -> float:
    """By peft's rule: a key of `alpha_pattern` that ends the module's path, else `lora_alpha`."""
    for pattern, alpha in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    return float(settings.get("lora_alpha", rank))
