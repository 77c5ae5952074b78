"""ERNIE-Image: its transformer's configuration and tensors, and what planning must know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from batchgen.model.components.autoencoder import FLUX2_VAE
from batchgen.model.components.config import (
    Above0,
    AnyTransformer,
    Blocks,
    Component,
    Size,
    wrong_axes,
)
from batchgen.model.components.mistral3 import Mistral3
from batchgen.model.components.tensors import Tensors, linear, matrix, under
from batchgen.model.components.tokenizer import MISTRAL_TOKENIZER
from batchgen.model.families.facts import FamilyFacts, language_encoding


class ErnieImageTransformer(AnyTransformer):
    """Of diffusers' `ErnieImageTransformer2DModel`."""

    hidden_size: Size
    num_attention_heads: Size
    num_layers: Blocks
    # Width of the MLP.
    ffn_hidden_size: Size
    in_channels: Size = 128
    out_channels: Size = 128
    patch_size: Literal[1] = 1
    # Width of the text's tokens.
    text_in_dim: Size
    rope_theta: Size = 256
    rope_axes_dim: tuple[Size, Size, Size] = (32, 48, 48)
    eps: Above0 = 1e-6
    # diffusers builds no other.
    qk_layernorm: Literal[True] = True
    # Of training; the published file of ERNIE-Image-Turbo has them.
    lora_rank: int = 4
    use_lora: Literal[False] = False

    @property
    def heads(self) -> int:
        """See `AnyTransformer`."""
        return self.num_attention_heads

    @property
    def width(self) -> int:
        """See `AnyTransformer`."""
        return self.hidden_size

    @property
    def blocks(self) -> int:
        """See `AnyTransformer`."""
        return self.num_layers

    def _contradictions(self) -> Iterator[str]:
        heads, width = self.num_attention_heads, self.hidden_size
        if width % heads:
            yield f"num_attention_heads = {heads}: expected a divisor of hidden_size = {width}"
        names = {"key": "rope_axes_dim", "of_head": "hidden_size / num_attention_heads"}
        yield from wrong_axes(self.rope_axes_dim, width // heads, "three", **names)
        if self.out_channels != self.in_channels:
            expected = f"in_channels = {self.in_channels}"
            yield f"out_channels = {self.out_channels}: expected {expected}"

    def tensors(self) -> Tensors:
        """See `Config`."""
        width = self.hidden_size
        # A convolution of one pixel.
        yield "x_embedder.proj.weight", (width, self.in_channels, 1, 1)
        yield "x_embedder.proj.bias", (width,)
        if self.text_in_dim != width:
            yield from matrix("text_proj", width, self.text_in_dim)
        for number in (1, 2):
            yield from linear(f"time_embedding.linear_{number}", width, width)
        yield from linear("adaLN_modulation.1", 6 * width, width)
        for number in range(self.num_layers):
            yield from under(f"layers.{number}", self._block())
        yield from linear("final_norm.linear", 2 * width, width)
        yield from linear("final_linear", self.out_channels, width)

    def _block(self) -> Tensors:
        width, inner = self.hidden_size, self.ffn_hidden_size
        for name in ("adaLN_sa_ln", "adaLN_mlp_ln"):
            yield f"{name}.weight", (width,)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from matrix(f"self_attention.{name}", width, width)
        for name in ("norm_q", "norm_k"):
            yield f"self_attention.{name}.weight", (width // self.num_attention_heads,)
        for name in ("gate_proj", "up_proj"):
            yield from matrix(f"mlp.{name}", inner, width)
        yield from matrix("mlp.linear_fc2", width, inner)


class ErnieImageMistral3(Mistral3):
    """Of the `Mistral3Model` in ERNIE-Image."""

    @property
    def used_layers(self) -> int:
        """The text is the last hidden layer but one."""
        return self.text_config.num_hidden_layers - 1

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.text_config.num_hidden_layers < 2:
            expected = "expected 2 or more, of which the last is not read"
            yield f"text_config.num_hidden_layers = 1: {expected}"


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the text is one hidden layer."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    yield "transformer text_in_dim", transformer.text_in_dim, configs["text_encoder"].hidden_size


def _step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step, counted as FLUX.1's: L · (2·(4·D² + 3·D·I)·S + 4·S²·D).

    A block has 4·D² weights for each token in its attention, and 3·D·I in its gated MLP of width I.
    """
    width, tokens = config["hidden_size"], image_tokens + text_tokens
    weights = 4 * width**2 + 3 * width * config["ffn_hidden_size"]
    return float(config["num_layers"] * (2 * weights * tokens + 4 * tokens**2 * width))


ERNIE_IMAGE = FamilyFacts(
    "ernie_image",
    {
        "transformer": Component(
            "diffusers", "ErnieImageTransformer2DModel", ErnieImageTransformer
        ),
        "vae": FLUX2_VAE,
        "text_encoder": Component("transformers", "Mistral3Model", ErnieImageMistral3),
    },
    {"tokenizer": MISTRAL_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=18,
    contrasts=True,
    encoding=lambda config, tokens: language_encoding(config["text_config"], tokens),
    stacks=("layers",),
    left_out={
        "pe": "the prompt enhancer is left out: prompts are painted as they are written",
        "pe_tokenizer": "",
    },
)
