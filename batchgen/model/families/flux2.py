"""FLUX.2: its transformer's configuration and tensors, and what planning must know.

klein and dev share their transformer and VAE. klein's text is Qwen3's; dev's is that of the
language model in a Mistral3, which is told beforehand what it is there for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from batchgen.model.components.autoencoder import FLUX2_VAE
from batchgen.model.components.config import (
    MOST_BLOCKS,
    Above0,
    Component,
    Size,
    Transformer,
    wrong_axes,
    wrong_outputs,
)
from batchgen.model.components.mistral3 import Mistral3
from batchgen.model.components.qwen3 import Qwen3
from batchgen.model.components.tensors import Tensors, matrix
from batchgen.model.components.tokenizer import MISTRAL_TOKENIZER, QWEN_TOKENIZER
from batchgen.model.families.facts import TEXT, FamilyFacts, Messages, language_encoding


class Flux2Transformer(Transformer):
    """Of diffusers' `Flux2Transformer2DModel`."""

    patch_size: Literal[1] = 1
    out_channels: Size | None = None
    num_single_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    guidance_embeds: bool = True
    timestep_guidance_channels: Annotated[Size, Field(multiple_of=2)] = 256
    # Width of the MLP, in widths of a token.
    mlp_ratio: Above0 = 3.0
    axes_dims_rope: tuple[Size, Size, Size, Size] = (32, 32, 32, 32)
    rope_theta: Size = 2000
    eps: Above0 = 1e-6

    @property
    def inner(self) -> int:
        """Values of a token inside the MLP."""
        return int(self.width * self.mlp_ratio)

    def _contradictions(self) -> Iterator[str]:
        yield from wrong_axes(self.axes_dims_rope, self.attention_head_dim, "four")
        yield from wrong_outputs(self.out_channels, self.in_channels)

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, inner, norms = self.width, self.inner, (self.attention_head_dim,)
        yield from matrix("x_embedder", width, self.in_channels)
        yield from matrix("context_embedder", width, self.joint_attention_dim)
        for name in ("timestep_embedder", *(["guidance_embedder"] * self.guidance_embeds)):
            embedder = f"time_guidance_embed.{name}"
            yield from matrix(f"{embedder}.linear_1", width, self.timestep_guidance_channels)
            yield from matrix(f"{embedder}.linear_2", width, width)
        for name, sets in (
            ("double_stream_modulation_img", 6),
            ("double_stream_modulation_txt", 6),
        ):
            yield from matrix(f"{name}.linear", sets * width, width)
        yield from matrix("single_stream_modulation.linear", 3 * width, width)
        for number in range(self.num_layers):
            block = f"transformer_blocks.{number}"
            for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out"):
                yield from matrix(f"{block}.attn.{name}", width, width)
            for name in ("add_q_proj", "add_k_proj", "add_v_proj"):
                yield from matrix(f"{block}.attn.{name}", width, width)
            for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
                yield f"{block}.attn.{name}.weight", norms
            for name in ("ff", "ff_context"):
                yield from matrix(f"{block}.{name}.linear_in", 2 * inner, width)
                yield from matrix(f"{block}.{name}.linear_out", width, inner)
        for number in range(self.num_single_layers):
            block = f"single_transformer_blocks.{number}.attn"
            yield from matrix(f"{block}.to_qkv_mlp_proj", 3 * width + 2 * inner, width)
            yield from matrix(f"{block}.to_out", width, width + inner)
            for name in ("norm_q", "norm_k"):
                yield f"{block}.{name}.weight", norms
        yield from matrix("norm_out.linear", 2 * width, width)
        yield from matrix("proj_out", self.in_channels, width)


class KleinTransformer(Flux2Transformer):
    """As FLUX.2 klein has it."""

    # The pipeline of klein gives it no guidance.
    guidance_embeds: Literal[False]


# The hidden layers of the text encoder that are read, counted from the embedded tokens, 0.
QWEN3_LAYERS = (9, 18, 27)
MISTRAL3_LAYERS = (10, 20, 30)
# What dev's text encoder is told before every prompt. Source: `src/flux2/system_messages.py` of
# https://github.com/black-forest-labs/flux2.
SYSTEM_MESSAGE = (
    "You are an AI that reasons about image descriptions. You give structured responses focusing "
    "on object relationships, object\nattribution and actions without speculation."
)


def after_system_message(prompt: str) -> Messages:
    """The conversation of dev. The mark of a picture is taken out of the prompt: none follows."""
    told = {"system": SYSTEM_MESSAGE, "user": prompt.replace("[IMG]", "")}
    return [
        {"role": role, "content": [{"type": "text", "text": text}]} for role, text in told.items()
    ]


class Flux2Qwen3(Qwen3):
    """Of the `Qwen3ForCausalLM` in FLUX.2 klein."""

    @property
    def used_layers(self) -> int:
        """See `Qwen3`."""
        return QWEN3_LAYERS[-1]

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if self.num_hidden_layers < self.used_layers:
            expected = f"at least {self.used_layers}, whose outputs are the text"
            yield f"num_hidden_layers = {self.num_hidden_layers}: expected {expected}"


class Flux2Mistral3(Mistral3):
    """Of the `Mistral3ForConditionalGeneration` in FLUX.2 dev."""

    @property
    def used_layers(self) -> int:
        """See `Mistral3`."""
        return MISTRAL3_LAYERS[-1]

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        given = self.text_config.num_hidden_layers
        if given < self.used_layers:
            expected = f"at least {self.used_layers}, whose outputs are the text"
            yield f"text_config.num_hidden_layers = {given}: expected {expected}"


def _encoding(config: dict[str, Any], layers: Sequence[int], tokens: int) -> int:
    """What a language model takes, and all hidden layers: transformers keeps every one.

    :param config: of the language model.
    """
    hidden: int = (layers[-1] + 1 + len(layers)) * config["hidden_size"]
    return language_encoding(config, tokens) + tokens * hidden


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the text is three hidden layers, side by side."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    yield TEXT, transformer.joint_attention_dim, 3 * configs["text_encoder"].hidden_size


def _step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of FLUX.2, counted as FLUX.1's: L · (2·(4 + 3·m)·S·D² + 4·S²·D).

    A block has 4·D² weights for each token in its attention, and 3·m·D² in its gated MLP, which is
    m times as wide as a token.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config["num_single_layers"]
    tokens, inner = image_tokens + text_tokens, int(width * config.get("mlp_ratio", 3.0))
    weights = 4 * width**2 + 3 * inner * width
    return float(layers * (2 * weights * tokens + 4 * tokens**2 * width))


FLUX2_KLEIN = FamilyFacts(
    "flux2",
    {
        "transformer": Component("diffusers", "Flux2Transformer2DModel", KleinTransformer),
        "vae": FLUX2_VAE,
        "text_encoder": Component("transformers", "Qwen3ForCausalLM", Flux2Qwen3),
    },
    {"tokenizer": QWEN_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=25,
    contrasts=True,
    chat={"enable_thinking": False},
    encoding=lambda config, tokens: _encoding(config, QWEN3_LAYERS, tokens),
)
FLUX2_DEV = FamilyFacts(
    "flux2_dev",
    {
        "transformer": Component("diffusers", "Flux2Transformer2DModel", Flux2Transformer),
        "vae": FLUX2_VAE,
        "text_encoder": Component(
            "transformers", "Mistral3ForConditionalGeneration", Flux2Mistral3
        ),
    },
    {"tokenizer": MISTRAL_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=25,
    chat={"add_generation_prompt": False},
    messages=after_system_message,
    encoding=lambda config, tokens: _encoding(config["text_config"], MISTRAL3_LAYERS, tokens),
)
