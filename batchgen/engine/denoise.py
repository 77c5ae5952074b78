"""The denoising loop: a group's noise, down its noise levels, to latents.

Seed, guidance and classifier-free scale are each picture's own. The number of steps and the size,
and with them the noise levels, are the group's. No arithmetic mixes two pictures: a picture depends
on its neighbours only through the rounding of larger or smaller matrix products.

Legend: B pictures, R rows, T image tokens of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchgen.engine.device import Device
from batchgen.engine.families.family import Family, Schedule, Text
from batchgen.engine.forward_pass import Forward
from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a transformer call: every picture, then a second row of each contrasted one.

    Contrasted pictures are those with classifier-free guidance.
    """

    # [R] int64: the picture that a row belongs to: 0, 1, … B-1, then the contrasted ones.
    owner: Tensor
    # [R - B] fp32: the guidance scale of each contrasted picture.
    scales: Tensor
    # R rows: prompts, then negative prompts.
    text: Text


def draw_noise(family: Family, group: Sequence[Picture], device: Device) -> Tensor:
    """Latents [B, T, C] of pure noise, each picture's from its seed.

    They are drawn on the CPU in fp32, the same for every device. Rounded to bf16, they are what
    diffusers draws in bf16 from the same seed.
    """
    shape = family.noise_shape(group[0].width, group[0].height)
    generators = (torch.Generator().manual_seed(picture.seed) for picture in group)
    noise = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    return family.pack(noise.to(device.kind, device.dtype))


def denoise(forward: Forward, noise: Tensor, rows: Rows, schedule: Schedule) -> Tensor:
    """Latents [B, T, C] of finished pictures: Euler steps along the predicted velocity.

    Rectified flow: https://arxiv.org/abs/2209.03003. The sum is fp32, as in diffusers'
    `FlowMatchEulerDiscreteScheduler.step`.

    :param noise: [B, T, C].
    """
    latents, contrasted = noise, len(rows.scales) > 0
    for step in range(len(schedule.timesteps)):
        velocity = forward.velocity(latents[rows.owner] if contrasted else latents, step)
        change = schedule.sigmas[step + 1] - schedule.sigmas[step]
        latents = (latents.float() + change * contrast(velocity, rows)).to(noise.dtype)
    return latents


def contrast(velocity: Tensor, rows: Rows) -> Tensor:
    """Apply classifier-free guidance: the velocity of the rows [R, …] → of the pictures [B, …].

    Contrasted pictures get negative + scale · (velocity - negative); the others stay untouched, bit
    for bit. https://arxiv.org/abs/2207.12598
    """
    pictures = len(velocity) - len(rows.scales)
    if pictures == len(velocity):
        return velocity
    which, negative = rows.owner[pictures:], velocity[pictures:]
    difference = rows.scales.view(-1, *[1] * (negative.ndim - 1)) * (velocity[which] - negative)
    return velocity[:pictures].index_copy(0, which, negative + difference.to(velocity.dtype))
