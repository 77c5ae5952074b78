"""A small VAE of videos with random weights."""

from typing import Any

import torch
from diffusers import AutoencoderKLQwenImage


def make_video_vae(base_dim: int = 8) -> AutoencoderKLQwenImage:
    """Norms and biases are none that would hide their absence."""
    vae: Any = AutoencoderKLQwenImage(base_dim=base_dim).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
    vae.decoder.conv_out.weight *= 2
    return vae
