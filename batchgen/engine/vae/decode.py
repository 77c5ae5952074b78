"""Latents → pixels: a batch whole, spread over the ranks, or a very large picture in bands.

Both give the undivided decode, up to rounding. Tiles are never used: their seams and statistics
change the picture.

Convolutions run in channels_last, where kernels are faster: always on the CPU, but on CUDA only in
a compiled decoder, because the group norm of eager mode would copy every tensor there and back. All
sizes and numbers of pictures that are decoded whole are compiled; bands are not.

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
from batchgen.engine.vae.banded_decoder import decode_in_bands

# [b, C', h, w] → [b, 3, H, W] in [-1, 1].
Decode = Callable[[Tensor], Tensor]


def plain_decode(vae: Any, device: torch.device) -> Decode:
    """The VAE as it is, eagerly."""
    if device.type == "cpu":
        vae.to(memory_format=torch.channels_last)
    return lambda latents: _decode(vae, {"latents": latents})


def worth_compiling(device: torch.device) -> bool:
    """Whether a compiled decoder repays its compilation: only on CUDA.

    On a CPU (embedded model, 128 px) each size takes 70 s of a core, and a picture 18 ms, not 20.
    """
    return device.type == "cuda"


class CompiledDecode:
    """A `Decode` that is compiled: for each size a graph for one picture, and one for several.

    If there are more than `static` sizes, all of them share these two graphs.
    """

    def __init__(
        self,
        family: Family,
        compiler: Compiler,
        sizes: Collection[tuple[int, int]],
        ranks: Ranks,
        static: int = STATIC_SIZES,
    ) -> None:
        """:param sizes: (width, height) of all pictures to come, px. Those that will be decoded in
        bands are left out.
        """
        self._family, self._degree = family, ranks.degree
        self._sizes = sorted(size for size in set(sizes) if not bands(*size, ranks.degree))
        self._static = len(self._sizes) <= static
        self._vae = family.vae.to(memory_format=torch.channels_last)
        names = ", ".join(f"{width}×{height}" for width, height in self._sizes)
        plan = f"Compiled for decoding are {names} px."
        self._region = Region(compiler, _decode, self._mark, plan)

    def __call__(self, latents: Tensor) -> Tensor:
        """See `Decode`.

        :raises JobError: the latents have a size that was not planned.
        """
        key = (latents.shape[2:] if self._static else None, len(latents) >= MANY)
        pixels: Tensor = self._region(key, self._vae, {"latents": latents})
        return pixels

    def graphs(self, pictures: int) -> int:
        """How many graphs `warm` makes."""
        most = [min(MANY, self._most(pictures, *size)) for size in self._sizes]
        return sum(most) if self._static else max(most, default=0)

    def _most(self, pictures: int, width: int, height: int) -> int:
        """The most pictures of a size that this rank decodes together."""
        return min(-(-pictures // self._degree), at_once(width, height))

    @torch.inference_mode()
    def warm(self, pictures: int, device: torch.device, dtype: torch.dtype) -> None:
        """Compile every graph that will be needed.

        :param pictures: how many a group has at most.
        """
        for width, height in self._sizes:
            shape = self._family.noise_shape(width, height)
            for count in range(self._most(pictures, width, height), 0, -1):
                self(torch.zeros(count, *shape, device=device, dtype=dtype))

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
    """Pixels of a group, uint8 [B, H, W, 3], RGB: the same bits on every rank.

    They are rounded as diffusers' `VaeImageProcessor` does.

    :param decode: the family's VAE, for pictures that are decoded whole.
    """
    unpacked = family.unpack(latents, width, height)
    if count := bands(width, height, ranks.degree):
        pictures = torch.split(unpacked, 1)
        parts = [_to_pixels(decode_in_bands(family.vae, one, ranks, count)) for one in pictures]
        pixels = torch.cat(parts)
    else:
        most = at_once(width, height)
        pixels = spread(
            unpacked,
            lambda share: torch.cat([_to_pixels(decode(x)) for x in torch.split(share, most)]),
            ranks,
        )
    return pixels.cpu().contiguous().numpy()


def spread(latents: Tensor, decode: Callable[[Tensor], Tensor], ranks: Ranks) -> Tensor:
    """Decode a batch on every rank, each rank having decoded its share of the pictures.

    A rank without a picture decodes the first one and drops it. So it learns the result's shape and
    dtype, in time in which it would only wait for the others.

    :param latents: [B, …], the same on every rank.
    :param decode: [b, …] → [b, …] for any b ≥ 1.
    """
    share = ranks.split(latents, dim=0)
    decoded = decode(share) if len(share) else decode(latents[:1])[:0]
    return ranks.gather(decoded, len(latents), dim=0)


def _decode(vae: Any, inputs: Inputs) -> Tensor:
    image: Tensor = vae.decode(inputs["latents"], return_dict=False)[0]
    return image


def _to_pixels(image: Tensor) -> Tensor:
    """[b, 3, H, W] in [-1, 1] → uint8 [b, H, W, 3]."""
    scaled = (image * 0.5 + 0.5).clamp(0, 1).float() * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1)
