"""The configurations of a model's components, checked.

Keys that published folders always hold are required; the others have the libraries' defaults. Of
diffusers' components all keys are listed, because diffusers ignores what it does not know, and a
setting without effect is refused. transformers keeps many keys that do not matter here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from batchgen.errors import ModelError

# Far beyond any published model. They keep a damaged number from taking all memory.
MOST_BLOCKS = 1000
MOST_VALUES = 2**24


def _refuse_whole(value: Any) -> Any:
    if isinstance(value, int):
        raise ValueError("expected a number with a decimal point")
    return value


Blocks = Annotated[int, Field(ge=1, le=MOST_BLOCKS)]
Size = Annotated[int, Field(ge=1, le=MOST_VALUES)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# transformers takes no whole number for these.
Decimal = Annotated[Number, BeforeValidator(_refuse_whole)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]


Checked = TypeVar("Checked", bound="Config")


class Config(BaseModel):
    """A component's `config.json`. Whole numbers are whole, and nothing is converted."""

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if wrong := "; ".join(self._contradictions()):
            raise ValueError(wrong)
        return self

    def _contradictions(self) -> Iterator[str]:
        """Values that do not fit each other, and what was expected of them."""
        yield from ()


class DiffusersConfig(Config):
    """A configuration of diffusers."""

    model_config = ConfigDict(extra="forbid")


class _Transformer(DiffusersConfig):
    """What the transformers of all families have."""

    in_channels: Size
    num_layers: Blocks
    attention_head_dim: Annotated[Size, Field(multiple_of=2)]
    num_attention_heads: Size
    # Width of the text's tokens.
    joint_attention_dim: Size

    @property
    def width(self) -> int:
        """Values of a token in the blocks."""
        return self.num_attention_heads * self.attention_head_dim


class FluxTransformer(_Transformer):
    """Of diffusers' `FluxTransformer2DModel`."""

    # Width of the pooled text.
    pooled_projection_dim: Size
    patch_size: Literal[1] = 1
    out_channels: Size | None = None
    num_single_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    guidance_embeds: bool = False
    axes_dims_rope: tuple[Size, Size, Size] = (16, 56, 56)

    def _contradictions(self) -> Iterator[str]:
        yield from _wrong_axes(self.axes_dims_rope, self.attention_head_dim, "three")
        if self.out_channels not in (None, self.in_channels):
            expected = f"null or in_channels = {self.in_channels}"
            yield f"out_channels = {self.out_channels}: expected {expected}"


class Flux2Transformer(_Transformer):
    """Of diffusers' `Flux2Transformer2DModel`, as FLUX.2 klein has it."""

    patch_size: Literal[1] = 1
    out_channels: Size | None = None
    num_single_layers: Annotated[int, Field(ge=0, le=MOST_BLOCKS)]
    # The pipeline of klein gives it none.
    guidance_embeds: Literal[False]
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
        yield from _wrong_axes(self.axes_dims_rope, self.attention_head_dim, "four")
        if self.out_channels not in (None, self.in_channels):
            expected = f"null or in_channels = {self.in_channels}"
            yield f"out_channels = {self.out_channels}: expected {expected}"


def _wrong_axes(axes: Sequence[int], head: int, count: str) -> Iterator[str]:
    if sum(axes) != head or any(axis % 2 for axis in axes):
        yield (
            f"axes_dims_rope = {list(axes)}: expected {count} even numbers whose sum is "
            f"attention_head_dim = {head}"
        )


class SD3Transformer(_Transformer):
    """Of diffusers' `SD3Transformer2DModel`."""

    # Width of the pooled text.
    pooled_projection_dim: Size
    sample_size: Size = 128
    patch_size: Annotated[int, Field(ge=1, le=64)] = 2
    out_channels: Size | None = 16
    caption_projection_dim: Size
    pos_embed_max_size: Annotated[int, Field(ge=1, le=4096)]
    dual_attention_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    qk_norm: Literal["rms_norm"] | None = None

    def _contradictions(self) -> Iterator[str]:
        if self.caption_projection_dim != self.width:
            yield (
                f"caption_projection_dim = {self.caption_projection_dim}: expected "
                f"num_attention_heads × attention_head_dim = {self.width}"
            )
        if self.out_channels not in (None, self.in_channels):
            expected = f"null or in_channels = {self.in_channels}"
            yield f"out_channels = {self.out_channels}: expected {expected}"
        if any(layer >= self.num_layers for layer in self.dual_attention_layers):
            yield (
                f"dual_attention_layers = {list(self.dual_attention_layers)}: expected numbers "
                f"below num_layers = {self.num_layers}"
            )


class Autoencoder(DiffusersConfig):
    """What the VAEs of all families have."""

    in_channels: Size = 3
    out_channels: Literal[3] = 3
    down_block_types: tuple[Literal["DownEncoderBlock2D"], ...]
    up_block_types: tuple[Literal["UpDecoderBlock2D"], ...]
    # Two or more: planning estimates the memory of decoding from the last two blocks.
    block_out_channels: Annotated[tuple[Size, ...], Field(min_length=2, max_length=8)]
    layers_per_block: Blocks = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Size
    norm_num_groups: Size = 32
    sample_size: Size | tuple[Size, Size] = 32
    # Of older versions, and without effect: the VAE has the other models' precision.
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the decoder's blocks, in the order of `block_out_channels`."""
        return self.block_out_channels

    def _contradictions(self) -> Iterator[str]:
        channels, groups = self.block_out_channels, self.norm_num_groups
        if not len(channels) == len(self.down_block_types) == len(self.up_block_types):
            lists = "block_out_channels, down_block_types and up_block_types"
            yield f"{lists}: expected equal lengths"
        if any(count % groups for count in channels):
            yield (
                f"norm_num_groups = {groups}: expected a divisor of every number in "
                f"block_out_channels = {list(channels)}"
            )


class Vae(Autoencoder):
    """Of diffusers' `AutoencoderKL`."""

    scaling_factor: Above0
    shift_factor: Number
    latents_mean: tuple[Number, ...] | None = None
    latents_std: tuple[Number, ...] | None = None


class Flux2Vae(Autoencoder):
    """Of diffusers' `AutoencoderKLFlux2`: a batch norm takes the place of scale and shift."""

    layers_per_block: Blocks = 2
    latent_channels: Size = 32
    sample_size: Size | tuple[Size, Size] = 1024
    decoder_block_out_channels: Annotated[tuple[Size, ...], Field(min_length=2)] | None = None
    batch_norm_eps: Above0 = 1e-4
    batch_norm_momentum: Number = 0.1
    patch_size: tuple[Literal[2], Literal[2]] = (2, 2)

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """See `Autoencoder`."""
        return self.decoder_block_out_channels or self.block_out_channels

    def _contradictions(self) -> Iterator[str]:
        yield from super()._contradictions()
        channels, groups = self.decoder_channels, self.norm_num_groups
        if len(channels) != len(self.block_out_channels) or any(each % groups for each in channels):
            yield (
                f"decoder_block_out_channels = {list(channels)}: expected as many numbers as in "
                f"block_out_channels, multiples of norm_num_groups = {groups}"
            )


class _TransformersConfig(Config):
    """A configuration of transformers. It checks types of keys that decide nothing here, too."""

    # The engine reads outputs by their names.
    return_dict: Literal[True] | None = True
    output_hidden_states: bool | None = False
    chunk_size_feed_forward: int = 0
    is_encoder_decoder: bool = False
    initializer_factor: Decimal = 1.0
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None


class Clip(_TransformersConfig):
    """Of transformers' `CLIPTextModel`."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    max_position_embeddings: Size = 77
    hidden_act: Activation = "quick_gelu"
    layer_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-5
    # Of training. The projection is used by `CLIPTextModelWithProjection` alone.
    attention_dropout: Number | None = 0.0
    initializer_range: Decimal = 0.02
    projection_dim: int | None = None

    def _contradictions(self) -> Iterator[str]:
        width, heads = self.hidden_size, self.num_attention_heads
        if width % heads:
            yield f"num_attention_heads = {heads}: expected a divisor of hidden_size = {width}"


class ClipWithProjection(Clip):
    """Of transformers' `CLIPTextModelWithProjection`."""

    projection_dim: Size


class T5(_TransformersConfig):
    """Of transformers' `T5EncoderModel`."""

    vocab_size: Size
    d_model: Size
    d_kv: Size
    d_ff: Size
    num_layers: Blocks
    num_heads: Size
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=MOST_VALUES, multiple_of=2)] = 32
    relative_attention_max_distance: Annotated[int, Field(ge=2, le=MOST_VALUES)] = 128
    layer_norm_epsilon: Annotated[Decimal, Field(gt=0)] = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "silu", "gated-relu", "gated-gelu", "gated-silu"] = (
        "relu"
    )
    # If it stands there, it goes before the name in `feed_forward_proj`.
    dense_act_fn: Activation | None = None
    is_decoder: Literal[False] = False
    # Of the decoder, and of training.
    num_decoder_layers: int | None = None
    use_cache: bool = False
    dropout_rate: Number = 0.0
    classifier_dropout: Number = 0.0


class Qwen3(_TransformersConfig):
    """Of transformers' `Qwen3ForCausalLM`."""

    vocab_size: Size
    hidden_size: Size
    intermediate_size: Size
    num_hidden_layers: Blocks
    num_attention_heads: Size
    num_key_value_heads: Size
    head_dim: Annotated[Size, Field(multiple_of=2)]
    max_position_embeddings: Size = 32768
    hidden_act: Activation = "silu"
    rms_norm_eps: Annotated[Decimal, Field(gt=0)] = 1e-6
    attention_bias: bool = False
    use_sliding_window: Literal[False] = False

    @property
    def used_layers(self) -> int:
        """Layers whose output the family reads, and those before them."""
        return self.num_hidden_layers

    def _contradictions(self) -> Iterator[str]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        if heads % groups:
            yield f"num_key_value_heads = {groups}: expected a divisor of {heads} attention heads"


# The hidden layers of Qwen3 that FLUX.2 klein reads, counted from the embedded tokens, 0.
QWEN3_LAYERS = (9, 18, 27)


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


class Scheduler(DiffusersConfig):
    """Of diffusers' `FlowMatchEulerDiscreteScheduler`.

    Stochastic sampling and inverted noise levels are refused: the engine takes plain Euler steps
    from noise to picture.
    """

    num_train_timesteps: Size = 1000
    shift: Above0 = 1.0
    use_dynamic_shifting: bool = False
    base_shift: Number = 0.5
    max_shift: Number = 1.15
    base_image_seq_len: Size = 256
    max_image_seq_len: Size = 4096
    invert_sigmas: Literal[False] = False
    shift_terminal: Annotated[Number, Field(gt=0, lt=1)] | None = None
    use_karras_sigmas: bool | None = False
    use_exponential_sigmas: bool | None = False
    use_beta_sigmas: bool | None = False
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    stochastic_sampling: Literal[False] = False

    def _contradictions(self) -> Iterator[str]:
        if self.max_image_seq_len == self.base_image_seq_len:
            yield "base_image_seq_len and max_image_seq_len: expected two different numbers"
        chosen = self.use_karras_sigmas, self.use_exponential_sigmas, self.use_beta_sigmas
        if sum(map(bool, chosen)) > 1:
            yield "use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas: expected one at most"
        if self.use_beta_sigmas and find_spec("scipy") is None:
            yield "use_beta_sigmas needs scipy: pip install scipy"


def parse_config(content: Mapping[str, Any], kind: type[Checked], *, where: str) -> Checked:
    """A component's configuration, checked.

    :param content: of its `config.json`.
    :param where: that file, for the message.
    :raises ModelError: values are missing, impossible, or contradict each other; all are told.
    """
    # Keys that begin with `_` say who wrote the file.
    settings = {key: value for key, value in content.items() if not key.startswith("_")}
    try:
        return kind.model_validate_json(json.dumps(settings))
    except ValidationError as error:
        problems = "; ".join(_explain(problem) for problem in error.errors(include_url=False))
    raise ModelError(f"{where}: {problems}. Fetch the model again.")


def _explain(problem: ErrorDetails) -> str:
    message = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:  # a rule about several keys: its message names them
        return message
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    if problem["type"] == "extra_forbidden":
        return f"{key} is no key that diffusers reads here, and would have no effect"
    given = json.dumps(problem["input"])
    return f"{key} = {given if len(given) <= 60 else given[:57] + '...'}: {message}"
