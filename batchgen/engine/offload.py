"""What is on the device, and what leaves it while it is not needed: slower, for models that do not fit otherwise.

| `[engine] offload` | away while not needed |
|---|---|
| `none` | nothing |
| `text` | the text encoders, but while a group's prompts are encoded: for FLUX.1 9.8 GB in bf16, some 0.4 s a group over PCIe 5 |
| `model` | the transformer too, while prompts are encoded: then the largest of the models must fit, not their sum |
| `layers` | the text encoders, and of the transformer's blocks every layer but the one that computes and the next |

`layers` is diffusers' group offloading, leaf by leaf within each block, the next copy behind the present work. It hooks calls, so it is
refused with compiled blocks. The VAE always stays: it is small, and decodes while the next group is denoised.
Written for CUDA; no device was at hand to run it on.
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
from batchgen.errors import JobError

Offload = Literal["none", "text", "model", "layers"]


class Residence:
    """Which models are on the device."""

    def __init__(
        self, offload: Offload, device: torch.device, family: Family, modulator: Modulator
    ) -> None:
        """What `offload` lets stay goes to the device; the rest is on the host, or goes back to it.

        :raises JobError: the device is the CPU, which nothing can leave.
        """
        if offload != "none" and device.type == "cpu":
            raise JobError(
                f'engine.offload = "{offload}" on a CPU: there is no device to leave. --set engine.offload=none'
            )
        self._device = device
        self._encoders = list(family.encoders) if offload != "none" else []
        self._transformer = [family.transformer] if offload == "model" else []
        stays: list[nn.Module] = [
            modulator,
            family.vae,
            *(family.encoders if offload == "none" else ()),
        ]
        if offload == "layers":
            for block in family.blocks:
                apply_group_offloading(
                    block, device, torch.device("cpu"), "leaf_level", use_stream=True
                )
            blocks = set(map(id, family.blocks))
            stays += [
                child
                for child in family.transformer.children()
                if not blocks & set(map(id, child.children()))
            ]
        else:
            stays.append(family.transformer)
        self._move(self._encoders, "cpu")
        self._move(stays, device)

    @contextlib.contextmanager
    def encoding(self) -> Iterator[None]:
        """While prompts are encoded."""
        self._move(self._transformer, "cpu")
        self._move(self._encoders, self._device)
        yield
        self._move(self._encoders, "cpu")
        self._move(self._transformer, self._device)

    @torch.inference_mode(mode=False)  # in it 8-bit weights cannot be moved
    def _move(self, models: list[nn.Module], where: torch.device | str) -> None:
        for model in models:
            model.to(where)
        if models and where == "cpu":
            torch.cuda.empty_cache()
