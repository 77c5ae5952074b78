"""Which models are on the device: the others make room, so that larger ones fit, but slower.

| `[engine] offload` | away while not needed |
|---|---|
| `none` | nothing |
| `text` | the text encoders, except while prompts are encoded |
| `model` | the transformer too, while prompts are encoded |
| `layers` | the text encoders, and all blocks but the present one and the next |

`text` saves 9.8 GB of FLUX.1 in bf16, and takes some 0.2 s a group at the 55 GB/s of PCIe 5 (a
calculation). With `model` the largest of the models must fit, not their sum. `layers` replaces
blocks by callables, so compiled blocks are refused with it. The VAE always stays: it is small, and
it decodes while the next group is denoised.

What leaves stays in pinned memory of the host, once for each worker, in 8 bits where it is
quantized. Written for CUDA, and not run there: the tests emulate streams, and no card was at hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch

from batchgen.engine.families.family import Family
from batchgen.engine.offload.traveller import Traveller
from batchgen.engine.offload.turns import Turns
from batchgen.engine.rules import check_offload

Offload = Literal["none", "text", "model", "layers"]


class Residence:
    """Which models are on the device."""

    # 8-bit weights cannot be moved in inference mode.
    @torch.inference_mode(mode=False)
    def __init__(
        self, offload: Offload, device: torch.device, family: Family, modulator: torch.nn.Module
    ) -> None:
        """Move what stays to the device, and the rest to the host.

        :raises JobError: the device is the CPU, which nothing can leave.
        """
        check_offload(offload, cuda=device.type != "cpu", where="the CPU")
        away = () if offload == "none" else family.encoders
        self._encoders = [Traveller(encoder, device) for encoder in away]
        self._transformer = [Traveller(family.transformer, device)] if offload == "model" else []
        if offload == "layers":
            family.blocks = Turns(family.blocks, device).blocks
        for model in self._transformer:
            model.arrive()
        if offload == "none":
            for encoder in family.encoders:
                encoder.to(device)
        # After the blocks have settled: they stay where they are.
        for stays in (modulator, family.vae, family.transformer):
            stays.to(device)

    @contextlib.contextmanager
    def encoding(self) -> Iterator[None]:
        """While prompts are encoded, the text encoders are on the device.

        If encoding fails, all models that travel are away, so that a smaller group has room.
        """
        for model in self._transformer:
            model.leave()
        try:
            for model in self._encoders:
                model.arrive()
            yield
        finally:
            for model in self._encoders:
                model.leave()
        for model in self._transformer:
            model.arrive()
