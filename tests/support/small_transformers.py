"""A small transformer of each kind of model with random weights, two blocks of every sort.

LoRA files are tried on them; pipelines are in `tiny_families.py`.
"""

from collections.abc import Callable

import diffusers
from torch import nn

AXES = {"axes_dims_rope": (4, 6, 6), "attention_head_dim": 16, "num_attention_heads": 2}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "FLUX.2": lambda: diffusers.Flux2Transformer2DModel(
        **AXES | {"axes_dims_rope": (4, 4, 4, 4)},
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=24,
        guidance_embeds=True,
    ),
    "Chroma": lambda: diffusers.ChromaTransformer2DModel(
        **AXES,
        in_channels=64,
        num_layers=2,
        num_single_layers=2,
        joint_attention_dim=24,
        approximator_num_channels=16,
        approximator_hidden_dim=20,
        approximator_layers=2,
    ),
    "Qwen-Image": lambda: diffusers.QwenImageTransformer2DModel(
        **AXES, in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=24
    ),
    "ERNIE-Image": lambda: diffusers.ErnieImageTransformer2DModel(
        hidden_size=32,
        num_attention_heads=2,
        num_layers=2,
        ffn_hidden_size=48,
        in_channels=16,
        out_channels=16,
        text_in_dim=24,
        rope_axes_dim=(4, 6, 6),
    ),
    "Z-Image": lambda: diffusers.ZImageTransformer2DModel(
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=24,
        axes_dims=[4, 6, 6],
        axes_lens=[64, 64, 64],
    ),
}


def linears_of(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: one for name, one in model.named_modules() if isinstance(one, nn.Linear)}


def shapes_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (one.out_features, one.in_features) for name, one in linears_of(model).items()}
