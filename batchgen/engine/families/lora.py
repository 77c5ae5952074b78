"""LoRA: a low-rank change of weights, fused at load so that it costs nothing per step.

    W ← W + scale · strength · B·A        A [rank, in], B [out, rank]; in fp32, rounded once

`model/lora/` reads names and settings of all accepted tools, without torch, and refuses whatever
would stay unapplied; this file multiplies and adds. Text encoders are changed too, where the file
changes them, as their author meant: diffusers would drop T5's part with a note in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from batchgen.model import linear_name, read_lora

_HOST = torch.device("cpu")


@torch.no_grad()
def fuse_lora(
    components: Mapping[str, nn.Module], path: Path, scale: float, device: torch.device = _HOST
) -> int:
    """Add a LoRA to the linears that it names, and count them.

    The caller fuses before anything else sees the weights.

    :param components: what a LoRA may change, by its folder in the model.
    :param device: computes the change of weights on the host, which stay there. Weights elsewhere
        (on the meta device, if a file has them fused already) are changed where they are.
    :raises ModelError: the file holds something that would stay unapplied, numbers that are not
        finite, or its shapes do not fit. No weight is touched then.
    """
    linears = _linears(components)
    shapes = {name: (each.out_features, each.in_features) for name, each in linears.items()}
    additions = read_lora(path, shapes)
    # Not multiplied yet: all products together are as large as the model.
    with safe_open(path, framework="pt") as file:
        matrices = [(file.get_tensor(each.up), file.get_tensor(each.down)) for each in additions]
    for addition, (up, down) in zip(additions, matrices, strict=True):
        changed = [linears[name] for name in addition.linears.names]
        where = device if changed[0].weight.device == _HOST else changed[0].weight.device
        product = up.to(where).float() @ down.to(where).float()
        if addition.linears.halves_exchanged:
            product = torch.cat(product.chunk(2)[::-1])
        changes = torch.split(
            addition.strength * product * scale, [linear.out_features for linear in changed]
        )
        for linear, change in zip(changed, changes, strict=True):
            weight = linear.weight.data
            linear.weight.data = (weight.to(where).float() + change).to(weight.device, weight.dtype)
    return sum(len(addition.linears.names) for addition in additions)


def _linears(components: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    """Every linear by its name for comparison."""
    return {
        linear_name(component, path): linear
        for component, module in components.items()
        for path, linear in module.named_modules()
        if isinstance(linear, nn.Linear)
    }
