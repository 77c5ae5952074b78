"""batchgen.model.families."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """What planning must know of a model family; the rest of it is `engine/NAME.py`."""

    name: str
    t5_tokenizer: str  # component folder of the tokenizer whose length limits a prompt
    patch: int  # latent pixels a token is wide
    step_flops: Callable[
        [dict[str, Any], int, int], float
    ]  # transformer config, image tokens, text tokens → FLOP of one picture's step
    clip_tokens: int = 0  # text tokens beside T5's
    contrasts: bool = (
        False  # every picture has classifier-free guidance; else only those with a negative prompt
    )
    most_positions: str = (
        ""  # key of the transformer's config: the most tokens along a side; "": any number
    )


def _flux_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """Both block kinds hold 12·D² weights a token (q, k, v, out and a 4-fold MLP); attention is 4·S²·D a block."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config["num_single_layers"]
    tokens = image_tokens + text_tokens
    return float(layers * (2 * 12 * width**2 * tokens + 4 * tokens**2 * width))


def _sd3_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """As FLUX.1's double blocks; the last block has no text output, dual ones a second attention."""
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers, dual = config["num_layers"], len(config.get("dual_attention_layers") or ())
    tokens = image_tokens + text_tokens
    # The text output is out and MLP; the second attention q, k, v and out.
    weights = 12 * layers * tokens - 9 * text_tokens + 4 * dual * image_tokens
    return float(2 * weights * width**2 + 4 * (layers * tokens**2 + dual * image_tokens**2) * width)


FAMILIES = {
    "FluxPipeline": FamilyFacts(
        "flux", t5_tokenizer="tokenizer_2", patch=2, step_flops=_flux_step_flops
    ),
    "StableDiffusion3Pipeline": FamilyFacts(
        "sd3",
        t5_tokenizer="tokenizer_3",
        patch=2,
        step_flops=_sd3_step_flops,
        clip_tokens=77,
        contrasts=True,
        most_positions="pos_embed_max_size",
    ),
}
