"""Latents → pixels: a batch whole, shared out over the ranks; a very large picture in bands.

Both are the undivided decode, up to rounding: never tiles, whose seams and statistics change the picture.

Convolutions run channels last, where kernels are faster: on the CPU always, on CUDA if the decoder is compiled, for the group norm of eager
mode would copy everything there and back. Compiled are all sizes and numbers of pictures that are decoded whole; bands are not.

Legend: B pictures, b of them at once, C' latent channels, h×w latent pixels, H×W px.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch._dynamo import mark_dynamic

from batchgen.engine.compile.blocks import MANY, STATIC_SIZES
from batchgen.engine.compile.compiler import Compiler, Inputs, Region
from batchgen.engine.families.family import Family
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.sizes import at_once, bands
from batchgen.engine.vae.banded_decoder import decode_in_bands, spread

Decode = Callable[[Tensor], Tensor]  # [b, C', h, w] → [b, 3, H, W] in [-1, 1]


def plain_decode(vae: Any, device: torch.device) -> Decode:
    """The VAE as it is, eagerly."""
    if device.type == "cpu":
        vae.to(memory_format=torch.channels_last)
    return lambda latents: _decode(vae, {"latents": latents})


def worth_compiling(device: torch.device) -> bool:
    """On CUDA alone: on a CPU (embedded model, 128 px) it takes 70 s of a core for each size and spares 2 of 20 ms a picture."""
    return device.type == "cuda"


class CompiledDecode:
    """The VAE as one graph a size (or one for all, if they are many), and one more for single pictures; fulfils `Decode`."""

    def __init__(
        self,
        family: Family,
        compiler: Compiler,
        sizes: Collection[tuple[int, int]],
        ranks: Ranks,
        static: int = STATIC_SIZES,
    ) -> None:
        """:param sizes: (width, height) of the pictures to come, px. Those that are decoded in bands do not count."""
        self._family, self._degree = family, ranks.degree
        self._sizes = sorted(size for size in set(sizes) if not bands(*size, ranks.degree))
        self._static = len(self._sizes) <= static
        self._vae = family.vae.to(memory_format=torch.channels_last)
        told = f"Compiled for decoding are {', '.join(f'{width}×{height}' for width, height in self._sizes)} px."
        self._region = Region(compiler, _decode, self._mark, told)

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Decode`.

        :raises JobError: a size that was not planned.
        """
        pixels: Tensor = self._region(
            (latents.shape[2:] if self._static else None, len(latents) >= MANY),
            self._vae,
            {"latents": latents},
        )
        return pixels

    @torch.inference_mode()
    def warm(self, pictures: int, device: torch.device, dtype: torch.dtype) -> None:
        """Make every graph.

        :param pictures: the most of a group.
        """
        for width, height in self._sizes:
            for count in range(min(-(-pictures // self._degree), at_once(width, height)), 0, -1):
                self(
                    torch.zeros(
                        count, *self._family.noise_shape(width, height), device=device, dtype=dtype
                    )
                )

    def _mark(self, inputs: Inputs) -> None:
        latents = inputs["latents"]
        if len(latents) >= MANY:
            mark_dynamic(latents, 0)
        if not self._static:
            mark_dynamic(latents, 2)
            mark_dynamic(latents, 3)


def decode_latents(
    family: Family, decode: Decode, latents: Tensor, width: int, height: int, ranks: Ranks
) -> npt.NDArray[np.uint8]:
    """Pixels of a group, uint8 [B, H, W, 3], RGB, rounded as diffusers' `VaeImageProcessor` does; the same bits on every rank.

    :param decode: the family's VAE.
    """
    unpacked = family.unpack(latents, width, height)
    if count := bands(width, height, ranks.degree):
        parts = [
            _to_pixels(decode_in_bands(family.vae, part, ranks, count))
            for part in torch.split(unpacked, 1)
        ]
    else:
        most = at_once(width, height)
        parts = [
            spread(
                unpacked,
                lambda mine: torch.cat(
                    [_to_pixels(decode(part)) for part in torch.split(mine, most)]
                ),
                ranks,
            )
        ]
    return torch.cat(parts).cpu().contiguous().numpy()


def _decode(vae: Any, inputs: Inputs) -> Tensor:
    image: Tensor = vae.decode(inputs["latents"], return_dict=False)[0]
    return image


def _to_pixels(image: Tensor) -> Tensor:
    """[b, 3, H, W] in [-1, 1] → uint8 [b, H, W, 3]."""
    return (
        ((image * 0.5 + 0.5).clamp(0, 1).float() * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    )
