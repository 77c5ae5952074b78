"""The denoising loop: a group's noise, down its noise levels, to latents.

Seed, guidance and classifier-free scale are each picture's own. The number of steps and the size,
and with them the noise levels, are the group's. No arithmetic mixes two pictures: a picture depends
on its neighbours only through the rounding of larger or smaller matrix products.

Legend: B pictures, R rows, T image tokens of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from batchgen.engine.cache.products import Products
from batchgen.engine.cache.selection import Selection
from batchgen.engine.cache.velocities import Velocities
from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Family, Schedule, Text
from batchgen.engine.forward_pass import Forward
from batchgen.engine.parallel.halves import SomeRows
from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a transformer call: every picture, then a second row of each contrasted one.

    Contrasted pictures are those with classifier-free guidance.
    """

    # [R]: the picture that a row belongs to: 0, 1, … B-1, then the contrasted ones.
    owner: Sequence[int]
    # The same as a tensor, int64.
    index: Tensor
    # [R - B] fp32: the guidance scale of each contrasted picture.
    scales: Tensor
    # Prompts, then negative prompts: of the rows that this half of the replica holds.
    text: Text
    # Whether guidance keeps the length of every token's velocity: `Family.renormalised`.
    renormalised: bool = False

    def of(self, pictures: Selection) -> tuple[Rows, SomeRows]:
        """The rows of n pictures, and which ones these are of all rows."""
        place = {picture: at for at, picture in enumerate(pictures.numbers)}
        chosen = [row for row, picture in enumerate(self.owner) if picture in place]
        owner = [place[self.owner[row]] for row in chosen]
        numbers, index = upload([chosen, owner], self.index.device, torch.int64)
        first = len(self.owner) - len(self.scales)  # B
        scales = self.scales.index_select(0, numbers[len(pictures.numbers) :] - first)
        some = replace(self, owner=owner, index=index, scales=scales)
        return some, SomeRows(chosen, numbers)


def draw_noise(family: Family, group: Sequence[Picture], device: Device) -> Tensor:
    """Latents [B, T, C] of pure noise, each picture's from its seed.

    They are drawn on the CPU in fp32, the same for every device. Rounded to bf16, they are what
    diffusers draws in bf16 from the same seed.
    """
    shape = family.noise_shape(group[0].width, group[0].height)
    generators = (torch.Generator().manual_seed(picture.seed) for picture in group)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return family.pack(upload(noise.to(family.latents_dtype or device.dtype), device.kind))


def denoise(
    forward: Forward,
    noise: Tensor,
    rows: Rows,
    schedule: Schedule,
    velocities: Velocities | None = None,
    products: Products | None = None,
) -> Tensor:
    """Latents [B, T, C] of finished pictures: Euler steps along the predicted velocity.

    Rectified flow: https://arxiv.org/abs/2209.03003. The sum is fp32, as in diffusers'
    `FlowMatchEulerDiscreteScheduler.step`.

    :param noise: [B, T, C].
    :param velocities: None: every picture's velocity is computed at every step.
    :param products: what records the velocities if they are all computed; None: nothing does.
    """
    latents = noise
    for step in range(len(schedule.timesteps)):
        compute = partial(_compute, forward, latents, rows, step)
        if velocities is None:
            velocity = compute(None)
            if products:
                products.add(velocity)
        else:
            measure = partial(forward.measure, _every(latents, rows), step)
            latents, velocity = velocities.step(step, latents, measure, compute)
        change = schedule.sigmas[step + 1] - schedule.sigmas[step]
        latents = (latents.float() + change * velocity).to(noise.dtype)
    return latents


def _compute(
    forward: Forward, latents: Tensor, rows: Rows, step: int, pictures: Selection | None
) -> Tensor:
    """The velocity of n pictures, [n, T, C]; None stands for all."""
    if pictures is None or pictures.index is None:
        return contrast(forward.velocity(_every(latents, rows), step), rows)
    some, which = rows.of(pictures)
    every = _every(pictures.of(latents), some)
    return contrast(forward.velocity(every, step, which), some)


def _every(latents: Tensor, rows: Rows) -> Tensor:
    """Latents of pictures [B, T, C] → of their rows [R, T, C]."""
    return latents.index_select(0, rows.index) if len(rows.scales) else latents


def contrast(velocity: Tensor, rows: Rows) -> Tensor:
    """Apply classifier-free guidance: the velocity of the rows [R, …] → of the pictures [B, …].

    Contrasted pictures get v = negative + scale · (velocity - negative); the others stay untouched,
    bit for bit. https://arxiv.org/abs/2207.12598

    If `rows` says so, v is then given the length of the picture's own velocity, token by token:
    v · ‖velocity‖ / ‖v‖, norms over the last dimension.
    """
    pictures = len(velocity) - len(rows.scales)
    if pictures == len(velocity):
        return velocity
    which, negative = rows.index[pictures:], velocity[pictures:]
    positive, scales = velocity[which], rows.scales.view(-1, *[1] * (negative.ndim - 1))
    guided = negative + (scales * (positive - negative)).to(velocity.dtype)
    if rows.renormalised:
        lengths = (x.norm(dim=-1, keepdim=True) for x in (positive, guided))
        guided = guided * torch.div(*lengths)
    return velocity[:pictures].index_copy(0, which, guided)
