"""Qwen-Image: its transformer's configuration and tensors, and what planning must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from batchgen.model.components.config import Component, Size, Transformer, wrong_axes
from batchgen.model.components.qwen25_vl import QWEN25_VL, language_settings
from batchgen.model.components.tensors import Tensors, linear, under
from batchgen.model.components.tokenizer import QWEN_TOKENIZER
from batchgen.model.components.video_autoencoder import QWEN_VAE
from batchgen.model.families.facts import TEXT, FamilyFacts, language_encoding

# Values of a time before it is embedded.
_SINUSOIDS = 256


class QwenImageTransformer(Transformer):
    """Of diffusers' `QwenImageTransformer2DModel`, as text-to-image models have it."""

    patch_size: Literal[2] = 2
    out_channels: Size = 16
    guidance_embeds: Literal[False] = False
    # Of older versions, and without effect: no text is pooled.
    pooled_projection_dim: Size | None = None
    axes_dims_rope: tuple[Size, Size, Size] = (16, 56, 56)
    # Of models that edit pictures or divide them into layers.
    zero_cond_t: Literal[False] = False
    use_additional_t_cond: Literal[False] = False
    use_layer3d_rope: Literal[False] = False

    def _contradictions(self) -> Iterator[str]:
        yield from wrong_axes(self.axes_dims_rope, self.attention_head_dim, "three")
        if self.in_channels != self.patch_size**2 * self.out_channels:
            expected = f"in_channels / 4 = {self.in_channels / 4:g}"
            yield f"out_channels = {self.out_channels}: expected {expected}"

    def tensors(self) -> Tensors:
        """See `Config`."""
        width = self.width
        yield from linear("time_text_embed.timestep_embedder.linear_1", width, _SINUSOIDS)
        yield from linear("time_text_embed.timestep_embedder.linear_2", width, width)
        yield "txt_norm.weight", (self.joint_attention_dim,)
        yield from linear("img_in", width, self.in_channels)
        yield from linear("txt_in", width, self.joint_attention_dim)
        for block in range(self.num_layers):
            yield from under(f"transformer_blocks.{block}", _block(width, self.attention_head_dim))
        yield from linear("norm_out.linear", 2 * width, width)
        yield from linear("proj_out", self.in_channels, width)


def _block(width: int, head: int) -> Tensors:
    """Image and text have weights of their own, and attend together."""
    for name in ("to_q", "to_k", "to_v", "to_out.0"):
        yield from linear(f"attn.{name}", width, width)
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
        yield from linear(f"attn.{name}", width, width)
    for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
        yield f"attn.{name}.weight", (head,)
    for stream in ("img", "txt"):
        yield from linear(f"{stream}_mod.1", 6 * width, width)
        yield from linear(f"{stream}_mlp.net.0.proj", 4 * width, width)
        yield from linear(f"{stream}_mlp.net.2", width, 4 * width)


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the text is the last hidden state."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].z_dim
    yield TEXT, transformer.joint_attention_dim, configs["text_encoder"].hidden_size


def _step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of Qwen-Image: L · (24·S·D² + 4·S²·D), as of FLUX.1's double blocks.

    Texts are counted as long as they are padded. Their padding goes through the linears, and no
    token attends to it, so a step takes a little less.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    tokens = image_tokens + text_tokens
    return float(config["num_layers"] * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width))


# What the text encoder was given in training, around a prompt.
_BEFORE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
_BEHIND = "<|im_end|>\n<|im_start|>assistant\n"

QWEN_IMAGE = FamilyFacts(
    "qwen_image",
    {
        "transformer": Component("diffusers", "QwenImageTransformer2DModel", QwenImageTransformer),
        "vae": QWEN_VAE,
        "text_encoder": QWEN25_VL,
    },
    {"tokenizer": QWEN_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=17,
    contrasts=True,
    around=(_BEFORE, _BEHIND),
    unread=34,
    encoding=lambda config, tokens: language_encoding(language_settings(config), tokens),
)
