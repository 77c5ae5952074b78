"""Models that leave the device while they are not needed: slower, but larger models fit.

| `[engine] offload` | away while not needed |
|---|---|
| `none` | nothing |
| `text` | the text encoders, except while prompts are encoded |
| `model` | the transformer too, while prompts are encoded |
| `layers` | the text encoders, and all layers of the blocks but the present one and the next |

`text` saves 9.8 GB of FLUX.1 in bf16 and takes some 0.4 s a group over PCIe 5. With `model` the
largest of the models must fit, not their sum.

`layers` is diffusers' group offloading, leaf by leaf within each block: the next layer is copied
while the present one computes. It hooks calls, so compiled blocks are refused with it. The VAE
always stays: it is small, and it decodes while the next group is denoised.
Written for CUDA, and not run there: no device was at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from diffusers.hooks.group_offloading import apply_group_offloading
from torch import nn

from batchgen.engine.families.family import Family
from batchgen.engine.modulation import Modulator
from batchgen.engine.rules import check_offload

Offload = Literal["none", "text", "model", "layers"]

_HOST = torch.device("cpu")


class Residence:
    """Which models are on the device."""

    def __init__(
        self, offload: Offload, device: torch.device, family: Family, modulator: Modulator
    ) -> None:
        """Move what stays to the device, and the rest to the host.

        :raises JobError: the device is the CPU, which nothing can leave.
        """
        check_offload(offload, cuda=device.type != "cpu", where="the CPU")
        self._device = device
        self._encoders = [] if offload == "none" else list(family.encoders)
        self._transformer = [family.transformer] if offload == "model" else []
        stays: list[nn.Module] = [modulator, family.vae]
        stays += family.encoders if offload == "none" else ()
        stays += _offload_layers(family, device) if offload == "layers" else [family.transformer]
        self._move(self._encoders, _HOST)
        self._move(stays, device)

    @contextlib.contextmanager
    def encoding(self) -> Iterator[None]:
        """While prompts are encoded, the text encoders are on the device."""
        self._move(self._transformer, _HOST)
        self._move(self._encoders, self._device)
        yield
        self._move(self._encoders, _HOST)
        self._move(self._transformer, self._device)

    # 8-bit weights cannot be moved in inference mode.
    @torch.inference_mode(mode=False)
    def _move(self, models: list[nn.Module], where: torch.device) -> None:
        for model in models:
            model.to(where)
        if models and where == _HOST:
            torch.cuda.empty_cache()


def _offload_layers(family: Family, device: torch.device) -> list[nn.Module]:
    """Have the blocks' layers come and go; the transformer's other parts, which stay."""
    for block in family.blocks:
        apply_group_offloading(block, device, _HOST, "leaf_level", use_stream=True)
    blocks = set(map(id, family.blocks))
    children = family.transformer.children()
    return [child for child in children if not blocks & set(map(id, child.children()))]
