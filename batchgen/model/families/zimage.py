"""Z-Image and Z-Image-Turbo: the transformer's configuration and tensors, and planning's facts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from batchgen.model.components.autoencoder import VAE
from batchgen.model.components.config import (
    MOST_BLOCKS,
    Above0,
    AnyTransformer,
    Blocks,
    Component,
    Size,
    wrong_axes,
)
from batchgen.model.components.qwen3 import Qwen3
from batchgen.model.components.tensors import Tensors, linear, matrix, under
from batchgen.model.components.tokenizer import QWEN_TOKENIZER
from batchgen.model.families.facts import FamilyFacts, language_encoding

# Text tokens and image tokens are padded to multiples of this many, with learned tokens.
ZIMAGE_MULTIPLE = 32
# Values of the embedded time that modulates, unless the model is narrower.
_MOST_MODULATING = 256
# Values of a time before it is embedded, and inside its MLP.
_SINUSOIDS, _TIME_MLP = 256, 1024
# Positions along the first axis that the longest text takes, 512 tokens, with its picture's after
# it; they begin with 1.
_TEXT_POSITIONS = 514


class ZImageTransformer(AnyTransformer):
    """Of diffusers' `ZImageTransformer2DModel`. What edits pictures (SigLIP) is refused."""

    all_patch_size: tuple[Literal[2]] = (2,)
    all_f_patch_size: tuple[Literal[1]] = (1,)
    dim: Size
    n_layers: Blocks
    n_refiner_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    n_heads: Size
    n_kv_heads: Size
    norm_eps: Above0 = 1e-5
    qk_norm: bool = True
    # Width of the text's tokens.
    cap_feat_dim: Size
    siglip_feat_dim: None = None
    rope_theta: Above0 = 256.0
    t_scale: Above0 = 1000.0
    axes_dims: tuple[Size, Size, Size]
    axes_lens: tuple[Annotated[Size, Field(ge=_TEXT_POSITIONS)], Size, Size]

    @property
    def heads(self) -> int:
        """See `AnyTransformer`."""
        return self.n_heads

    @property
    def width(self) -> int:
        """See `AnyTransformer`."""
        return self.dim

    @property
    def blocks(self) -> int:
        """See `AnyTransformer`. Those that refine the text are called once a group."""
        return self.n_refiner_layers + self.n_layers

    @property
    def most_side(self) -> int:
        """See `AnyTransformer`."""
        return min(self.axes_lens[1:])

    def _contradictions(self) -> Iterator[str]:
        if self.dim % self.n_heads:
            yield f"n_heads = {self.n_heads}: expected a divisor of dim = {self.dim}"
        if self.n_kv_heads != self.n_heads:
            yield f"n_kv_heads = {self.n_kv_heads}: expected n_heads = {self.n_heads}"
        head = self.dim // self.n_heads
        yield from wrong_axes(self.axes_dims, head, "three", key="axes_dims", of_head="dim/n_heads")

    def tensors(self) -> Tensors:
        """See `Config`."""
        width, patch = self.dim, 4 * self.in_channels
        yield from linear("all_x_embedder.2-1", width, patch)
        yield from linear("all_final_layer.2-1.linear", patch, width)
        yield from linear("all_final_layer.2-1.adaLN_modulation.1", width, self._modulating)
        yield from linear("t_embedder.mlp.0", _TIME_MLP, _SINUSOIDS)
        yield from linear("t_embedder.mlp.2", self._modulating, _TIME_MLP)
        yield "cap_embedder.0.weight", (self.cap_feat_dim,)
        yield from linear("cap_embedder.1", width, self.cap_feat_dim)
        for kind in ("x", "cap"):
            yield f"{kind}_pad_token", (1, width)
        for stack, count in (
            ("noise_refiner", self.n_refiner_layers),
            ("context_refiner", self.n_refiner_layers),
            ("layers", self.n_layers),
        ):
            for number in range(count):
                modulated = stack != "context_refiner"
                yield from under(f"{stack}.{number}", self._block(modulated=modulated))

    @property
    def _modulating(self) -> int:
        return min(self.dim, _MOST_MODULATING)

    def _block(self, *, modulated: bool) -> Tensors:
        width, inner = self.dim, _inner(self.dim)
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from matrix(f"attention.{name}", width, width)
        for name in ("norm_q", "norm_k") if self.qk_norm else ():
            yield f"attention.{name}.weight", (width // self.n_heads,)
        yield from matrix("feed_forward.w1", inner, width)
        yield from matrix("feed_forward.w2", width, inner)
        yield from matrix("feed_forward.w3", inner, width)
        for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"):
            yield f"{name}.weight", (width,)
        if modulated:
            yield from linear("adaLN_modulation.0", 4 * width, self._modulating)


def _inner(width: int) -> int:
    """Values of a token inside the MLP, rounded as diffusers does."""
    return int(width / 3 * 8)


class ZImageQwen3(Qwen3):
    """Of the `Qwen3Model` in Z-Image, whose text is the last hidden layer but one."""

    @property
    def used_layers(self) -> int:
        """See `Qwen3`."""
        return self.num_hidden_layers - 1

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        if not self.used_layers:
            yield "num_hidden_layers = 1: expected at least 2, for the text is the last but one"


def _fits(configs: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    """A token is 2×2 latent pixels."""
    transformer = configs["transformer"]
    yield "transformer in_channels", transformer.in_channels, configs["vae"].latent_channels
    text = configs["text_encoder"].hidden_size
    yield "transformer cap_feat_dim", transformer.cap_feat_dim, text


def _step_flops(config: dict[str, Any], image_tokens: int, text_tokens: int) -> float:
    """FLOP of a denoising step of Z-Image: Σ over blocks of 2·(4·D² + 3·D·F)·S + 4·S²·D.

    D is the width, F that of the gated MLP, 8/3 of it. The S tokens of a block are image and text;
    in the blocks that refine the image they are the image's. The counting is that of FLUX.1.
    """
    width: int = config["dim"]
    weights = 4 * width**2 + 3 * width * _inner(width)

    def block(tokens: int) -> int:
        return 2 * weights * tokens + 4 * tokens**2 * width

    refining = config["n_refiner_layers"] * block(image_tokens)
    return float(refining + config["n_layers"] * block(image_tokens + text_tokens))


ZIMAGE = FamilyFacts(
    "zimage",
    {
        "transformer": Component("diffusers", "ZImageTransformer2DModel", ZImageTransformer),
        "vae": VAE,
        "text_encoder": Component(
            "transformers", "Qwen3Model", ZImageQwen3, wholes=("Qwen3ForCausalLM",)
        ),
    },
    {"tokenizer": QWEN_TOKENIZER},
    _fits,
    patch=2,
    step_flops=_step_flops,
    activations=20,
    contrasts=True,
    unguided=0.0,
    chat={"enable_thinking": True},
    encoding=language_encoding,
    token_multiple=ZIMAGE_MULTIPLE,
    stacks=("noise_refiner", "layers"),
)
