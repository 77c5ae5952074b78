"""The loop: a group's noise, down its noise levels, to latents.

A picture's seed, guidance and classifier-free scale are its own; the number of steps and the size, and with them the noise levels,
are the group's. No arithmetic mixes two pictures, so that a picture depends on its neighbours only through the rounding of larger or
smaller matrix products.

Legend: B pictures, G of them with classifier-free guidance, N steps; latents [B, …].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from batchgen.engine.device import Device
from batchgen.engine.family import Family, Text
from batchgen.manifest import Picture


@dataclass(frozen=True, slots=True)
class Contrast:
    """The classifier-free branch: which pictures have one, how strong, against what."""

    rows: Tensor  # [G] int64, which of the B
    scales: Tensor  # [G] fp32
    text: Text  # G rows: their negative prompts


def draw_noise(family: Family, group: Sequence[Picture], device: Device) -> Tensor:
    """Latents [B, …] of pure noise, each picture's from its seed.

    Drawn on the CPU in fp32: the same on every device. Rounded to bf16 it is what diffusers draws in bf16 from the same seed.
    """
    shape = family.noise_shape(group[0].width, group[0].height)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(picture.seed)) for picture in group]
    return family.pack(torch.stack(noise).to(device.kind, device.dtype))


def denoise(family: Family, group: Sequence[Picture], text: Text, contrast: Contrast | None, device: Device) -> Tensor:
    """Latents [B, …] of finished pictures: Euler steps along the predicted velocity.

    Rectified flow: https://arxiv.org/abs/2209.03003; as in diffusers' `FlowMatchEulerDiscreteScheduler.step`, the sum is fp32.
    """
    first = group[0]
    schedule = family.schedule(first.steps, first.width, first.height)
    guidance = torch.tensor([picture.guidance for picture in group], device=device.kind, dtype=torch.float32)
    latents = draw_noise(family, group, device)
    for step in range(first.steps):
        timestep = schedule.timesteps[step].to(device.dtype).expand(len(group))
        velocity = family.predict(latents, timestep, guidance, text, (first.width, first.height))
        if contrast is not None:
            velocity = _contrasted(family, velocity, latents, timestep, guidance, contrast, (first.width, first.height))
        latents = (latents.float() + (schedule.sigmas[step + 1] - schedule.sigmas[step]) * velocity).to(device.dtype)
    return latents


def _contrasted(
    family: Family, velocity: Tensor, latents: Tensor, timestep: Tensor, guidance: Tensor, contrast: Contrast, size: tuple[int, int]
) -> Tensor:
    """Velocity with classifier-free guidance where it is asked for; the other pictures' is returned untouched, bit for bit.

    negative + scale · (velocity - negative); https://arxiv.org/abs/2207.12598
    """
    rows = contrast.rows
    negative = family.predict(latents[rows], timestep[rows], guidance[rows], contrast.text, size)
    scales = contrast.scales.view(-1, *[1] * (negative.ndim - 1))
    difference = scales * (velocity[rows] - negative)
    return velocity.index_copy(0, rows, negative + difference.to(velocity.dtype))
