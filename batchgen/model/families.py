"""What planning must know of each model family, without torch: components, tokens and FLOP."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from batchgen.model.configs import (
    QWEN3_LAYERS,
    T5,
    Clip,
    ClipWithProjection,
    Config,
    Flux2Qwen3,
    Flux2Transformer,
    Flux2Vae,
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
    # Further classes for which a configuration can have been written: they hold this one.
    wholes: tuple[str, ...] = ()

    @property
    def written_by(self) -> tuple[str, ...]:
        """Classes for which a configuration can have been written, this one first."""
        return (self.class_name, *self.wholes)


# The class of diffusers whose steps `engine/denoise.py` takes.
SCHEDULER = "FlowMatchEulerDiscreteScheduler"
_TEXT, _POOLED = "transformer joint_attention_dim", "transformer pooled_projection_dim"
_VAE = Component("diffusers", "AutoencoderKL", Vae)
_CLIP = Component(
    "transformers", "CLIPTextModel", Clip, ("CLIPTextModelWithProjection", "CLIPModel")
)
_PROJECTED_CLIP = Component(
    "transformers", "CLIPTextModelWithProjection", ClipWithProjection, ("CLIPModel",)
)
_T5 = Component(
    "transformers",
    "T5EncoderModel",
    T5,
    ("T5ForConditionalGeneration", "T5Model", "T5WithLMHeadModel"),
)


@dataclass(frozen=True, slots=True)
class TokenizerKind:
    """A tokenizer: what loads it as it was made."""

    # Classes of transformers for it.
    class_names: tuple[str, ...]
    # What these classes presume, whatever the files hold: `type` of the model in tokenizer.json ...
    model: str
    # ... and special tokens.
    special_tokens: Mapping[str, str]


# Classes that take every tokenizer.json as it is.
ANY_TOKENIZER = ("PreTrainedTokenizerFast", "TokenizersBackend")
_CLIP_TOKENIZER = TokenizerKind(
    ("CLIPTokenizer", "CLIPTokenizerFast"),
    model="BPE",
    special_tokens={
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
)
_T5_TOKENIZER = TokenizerKind(
    ("T5Tokenizer", "T5TokenizerFast"),
    model="Unigram",
    special_tokens={"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"},
)
_QWEN_TOKENIZER = TokenizerKind(
    ("Qwen2Tokenizer", "Qwen2TokenizerFast"),
    model="BPE",
    special_tokens=dict.fromkeys(("eos_token", "unk_token", "pad_token"), "<|endoftext|>"),
)


def _t5_encoding(config: dict[str, Any], tokens: int) -> int:
    """Scores and their softmax, and the MLP; `planning/memory.py` tells what was measured."""
    return int(tokens * (2 * config["num_heads"] * tokens + 4 * config["d_ff"]))


@dataclass(frozen=True, slots=True)
class FamilyFacts:
    """Facts of a model family. How it computes is in `engine/families/NAME.py`."""

    name: str
    # By the component's folder.
    components: Mapping[str, Component]
    # By the tokenizer's folder. The last one's length limits a prompt.
    tokenizers: Mapping[str, TokenizerKind]
    # From the configurations of components to widths that have to be equal: what, is, expected.
    fits: Callable[[Mapping[str, Any]], Iterator[tuple[str, int, int]]]
    # Width of a token in latent pixels.
    patch: int
    # From transformer config, image tokens and text tokens to the FLOP of one picture's step.
    step_flops: Callable[[dict[str, Any], int, int], float]
    # Numbers that blocks take at their peak, for each token and value of its width:
    # `planning/memory.py` tells what was measured.
    activations: int
    # Text tokens beside those of T5.
    clip_tokens: int = 0
    # Every picture has classifier-free guidance, not only those with a negative prompt; unless the
    # model is distilled.
    contrasts: bool = False
    # What the tokenizer's chat template is told beside the prompt; None: it has no template.
    chat: Mapping[str, Any] | None = None
    # From the largest text encoder's config and a prompt's tokens to the numbers that encoding
    # takes beside the weights.
    encoding: Callable[[dict[str, Any], int], int] = _t5_encoding
    # Key of the transformer's config with the most tokens along a side; "": any number.
    most_positions: str = ""

    @property
    def tokenizer(self) -> str:
        """Folder of the tokenizer whose length limits a prompt."""
        return list(self.tokenizers)[-1]

    @property
    def text(self) -> str:
        """Folder of the text encoder that this tokenizer serves, the largest one."""
        return encoder_of(self.tokenizer)

    @property
    def classes(self) -> dict[str, list[tuple[str, str]]]:
        """Every component of the pipeline → the libraries and classes that it may have."""
        built = {
            name: [(component.library, component.class_name)]
            for name, component in self.components.items()
        }
        tokenizers = {
            name: [("transformers", each) for each in (*kind.class_names, *ANY_TOKENIZER)]
            for name, kind in self.tokenizers.items()
        }
        return {"scheduler": [("diffusers", SCHEDULER)], **built, **tokenizers}


def encoder_of(tokenizer: str) -> str:
    """Folder of the text encoder that a tokenizer serves."""
    return tokenizer.replace("tokenizer", "text_encoder")


def _flux_fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the pooled text is the CLIP's last hidden state."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    yield _TEXT, transformer.joint_attention_dim, configs["text_encoder_2"].d_model
    yield _POOLED, transformer.pooled_projection_dim, configs["text_encoder"].hidden_size


def _sd3_fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """The pooled text is the projections of both CLIPs, side by side."""
    transformer, clips = (
        configs["transformer"],
        [configs["text_encoder"], configs["text_encoder_2"]],
    )
    yield "transformer in_channels", transformer.in_channels, configs["vae"].latent_channels
    yield _TEXT, transformer.joint_attention_dim, configs["text_encoder_3"].d_model
    projected = sum(clip.projection_dim for clip in clips)
    yield _POOLED, transformer.pooled_projection_dim, projected


def _flux2_fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels; the text is three hidden layers, side by side."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, 4 * configs["vae"].latent_channels
    text = len(QWEN3_LAYERS) * configs["text_encoder"].hidden_size
    yield _TEXT, transformer.joint_attention_dim, text


def _qwen3_encoding(config: dict[str, Any], tokens: int) -> int:
    """As T5's, and all hidden layers: transformers keeps every one."""
    attention = 2 * config["num_attention_heads"] * tokens
    hidden = (QWEN3_LAYERS[-1] + 1 + len(QWEN3_LAYERS)) * config["hidden_size"]
    return int(tokens * (attention + 4 * config["intermediate_size"] + hidden))


def _flux2_step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of FLUX.2, counted as FLUX.1's: L · (2·(4 + 3·m)·S·D² + 4·S²·D).

    A block has 4·D² weights for each token in its attention, and 3·m·D² in its gated MLP, which is
    m times as wide as a token.
    """
    width = config["num_attention_heads"] * config["attention_head_dim"]
    layers = config["num_layers"] + config["num_single_layers"]
    tokens, inner = image_tokens + text_tokens, int(width * config.get("mlp_ratio", 3.0))
    weights = 4 * width**2 + 3 * inner * width
    return float(layers * (2 * weights * tokens + 4 * tokens**2 * width))


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
        {"tokenizer": _CLIP_TOKENIZER, "tokenizer_2": _T5_TOKENIZER},
        _flux_fits,
        patch=2,
        step_flops=_flux_step_flops,
        activations=20,
    ),
    "Flux2KleinPipeline": FamilyFacts(
        "flux2",
        {
            "transformer": Component("diffusers", "Flux2Transformer2DModel", Flux2Transformer),
            "vae": Component("diffusers", "AutoencoderKLFlux2", Flux2Vae),
            "text_encoder": Component("transformers", "Qwen3ForCausalLM", Flux2Qwen3),
        },
        {"tokenizer": _QWEN_TOKENIZER},
        _flux2_fits,
        patch=2,
        step_flops=_flux2_step_flops,
        activations=25,
        contrasts=True,
        chat={"enable_thinking": False},
        encoding=_qwen3_encoding,
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
        {
            "tokenizer": _CLIP_TOKENIZER,
            "tokenizer_2": _CLIP_TOKENIZER,
            "tokenizer_3": _T5_TOKENIZER,
        },
        _sd3_fits,
        patch=2,
        step_flops=_sd3_step_flops,
        activations=16,
        clip_tokens=77,
        contrasts=True,
        most_positions="pos_embed_max_size",
    ),
}
