"""The loop: a group's noise, down its noise levels, to latents.

A picture's seed, guidance and classifier-free scale are its own; the number of steps and the size, and with them the noise levels,
are the group's. No arithmetic mixes two pictures, so that a picture depends on its neighbours only through the rounding of larger or
smaller matrix products.

Legend: B pictures, R rows, N steps, T image tokens of C channels.
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
    """The rows of a transformer call: every picture, then the classifier-free branch of those that have one."""

    owner: (
        Tensor  # [R] int64: which picture a row belongs to; 0, 1, … B-1, then the contrasted ones
    )
    scales: Tensor  # [R - B] fp32: guidance scale of each contrasted picture
    text: Text  # [R]: prompts, then negative prompts


def draw_noise(family: Family, group: Sequence[Picture], device: Device) -> Tensor:
    """Latents [B, T, C] of pure noise, each picture's from its seed.

    Drawn on the CPU in fp32: the same on every device. Rounded to bf16 it is what diffusers draws in bf16 from the same seed.
    """
    shape = family.noise_shape(group[0].width, group[0].height)
    noise = [
        torch.randn(shape, generator=torch.Generator().manual_seed(picture.seed))
        for picture in group
    ]
    return family.pack(torch.stack(noise).to(device.kind, device.dtype))


def denoise(forward: Forward, noise: Tensor, rows: Rows, schedule: Schedule) -> Tensor:
    """Latents [B, T, C] of finished pictures: Euler steps along the predicted velocity.

    Rectified flow: https://arxiv.org/abs/2209.03003; as in diffusers' `FlowMatchEulerDiscreteScheduler.step`, the sum is fp32.
    """
    latents = noise
    for step in range(len(schedule.timesteps)):
        velocity = forward.velocity(
            latents if len(rows.owner) == len(latents) else latents[rows.owner], step
        )
        velocity = contrast(velocity, rows)
        latents = (
            latents.float() + (schedule.sigmas[step + 1] - schedule.sigmas[step]) * velocity
        ).to(noise.dtype)
    return latents


def contrast(velocity: Tensor, rows: Rows) -> Tensor:
    """Velocity [B, …] of rows [R, …]: with classifier-free guidance where it is asked for, the other pictures' untouched, bit for bit.

    negative + scale · (velocity - negative); https://arxiv.org/abs/2207.12598
    """
    pictures = len(velocity) - len(rows.scales)
    if pictures == len(velocity):
        return velocity
    which, negative = rows.owner[pictures:], velocity[pictures:]
    difference = rows.scales.view(-1, *[1] * (negative.ndim - 1)) * (velocity[which] - negative)
    return velocity[:pictures].index_copy(0, which, negative + difference.to(velocity.dtype))
