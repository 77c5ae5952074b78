"""What planning must know of each model family, without torch: components, tokens and FLOP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchgen.model.configs import (
    T5,
    Clip,
    ClipWithProjection,
    Config,
    FluxTransformer,
    SD3Transformer,
    Vae,
)


@dataclass(frozen=True, slots=True)
class Component:
    """A component with weights: what the engine builds of it."""

    library: str
    class_name: str
    config: type[Config]


_VAE = Component("diffusers", "AutoencoderKL", Vae)
_CLIP = Component("transformers", "CLIPTextModel", Clip)
_PROJECTED_CLIP = Component("transformers", "CLIPTextModelWithProjection", ClipWithProjection)
_T5 = Component("transformers", "T5EncoderModel", T5)


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Facts of a model family. How it computes is in `engine/families/NAME.py`."""

    name: str
    # By the component's folder.
    components: Mapping[str, Component]
    # Component folder of the tokenizer whose length limits a prompt.
    t5_tokenizer: str
    # Width of a token in latent pixels.
    patch: int
    # From transformer config, image tokens and text tokens to the FLOP of one picture's step.
    step_flops: Callable[[dict[str, Any], int, int], float]
    # Text tokens beside those of T5.
    clip_tokens: int = 0
    # Every picture has classifier-free guidance, not only those with a negative prompt.
    contrasts: bool = False
    # Key of the transformer's config with the most tokens along a side; "": any number.
    most_positions: str = ""


def _flux_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of FLUX.1: L · (24·S·D² + 4·S²·D).

    Each of the L blocks, double or single, has 12·D² weights for each of the S tokens (q, k, v,
    output, and an MLP four times as wide), and a multiply-add is two FLOP. Scores and weighted
    values of the attention take 2·S²·D each.

    Sources: `src/flux/modules/layers.py` of https://github.com/black-forest-labs/flux; the counting
    is that of Kaplan et al. 2020, https://arxiv.org/abs/2001.08361, section 2.1.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config["num_single_layers"]
    tokens = image_tokens + text_tokens
    return float(layers * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width))


def _sd3_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of Stable Diffusion 3: as FLUX.1's double blocks, with two changes.

    The last block has no text output, which saves 9·D² weights for each text token (output and
    MLP). Blocks with dual attention (3.5 medium) have a second attention over the image tokens:
    4·D² weights for each of them (q, k, v, output).

    Sources: Esser et al. 2024, https://arxiv.org/abs/2403.03206; `mmditx.py` of
    https://github.com/Stability-AI/sd3.5.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers, dual = config["num_layers"], len(config.get("dual_attention_layers") or ())
    tokens = image_tokens + text_tokens
    weights = 12 * layers * tokens - 9 * text_tokens + 4 * dual * image_tokens
    return float(2 * weights * width**2 + 4 * (layers * tokens**2 + dual * image_tokens**2) * width)


# By the pipeline class that a model folder names.
FAMILIES = {
    "FluxPipeline": FamilyFacts(
        "flux",
        {
            "transformer": Component("diffusers", "FluxTransformer2DModel", FluxTransformer),
            "vae": _VAE,
            "text_encoder": _CLIP,
            "text_encoder_2": _T5,
        },
        t5_tokenizer="tokenizer_2",
        patch=2,
        step_flops=_flux_step_flops,
    ),
    "StableDiffusion3Pipeline": FamilyFacts(
        "sd3",
        {
            "transformer": Component("diffusers", "SD3Transformer2DModel", SD3Transformer),
            "vae": _VAE,
            "text_encoder": _PROJECTED_CLIP,
            "text_encoder_2": _PROJECTED_CLIP,
            "text_encoder_3": _T5,
        },
        t5_tokenizer="tokenizer_3",
        patch=2,
        step_flops=_sd3_step_flops,
        clip_tokens=77,
        contrasts=True,
        most_positions="pos_embed_max_size",
    ),
}
