"""The configuration of a component, checked, and what it implies.

Keys that published folders always hold are required; the others have the libraries' defaults. Of
diffusers' components all keys are listed, because diffusers ignores what it does not know, and a
setting without effect is refused. transformers keeps many keys that do not matter here.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from batchgen.errors import ModelError
from batchgen.model.components.tensors import Shape, Tensors

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

    def tensors(self) -> Tensors:
        """Every tensor that the component's weight files have to hold."""
        yield from ()

    @classmethod
    def held(cls, name: str, shape: Shape) -> Shape | None:  # noqa: ARG003 - of VAEs of videos
        """The shape in which the engine keeps one of these tensors; None: it does not."""
        return shape


class DiffusersConfig(Config):
    """A configuration of diffusers."""

    model_config = ConfigDict(extra="forbid")


class AnyVae(Protocol):
    """What planning asks of a VAE's configuration."""

    @property
    def latent_channels(self) -> int:
        """Values of a latent pixel."""

    @property
    def reduction(self) -> int:
        """Pixels along a side of a latent pixel."""

    @property
    def decoder_channels(self) -> tuple[int, ...]:
        """Of the decoder's blocks, the last one first."""


class AnyTransformer(DiffusersConfig, ABC):
    """What planning asks of the transformers of all families, whatever their keys are called."""

    in_channels: Size

    @property
    @abstractmethod
    def heads(self) -> int:
        """Heads of an attention."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Values of a token in the blocks."""

    @property
    @abstractmethod
    def blocks(self) -> int:
        """Blocks that every step calls."""

    @property
    def most_side(self) -> int:
        """The most tokens along a side of a picture; 0: any number."""
        return 0


class Transformer(AnyTransformer):
    """A transformer by the names that most of diffusers' configurations use."""

    num_layers: Blocks
    attention_head_dim: Annotated[Size, Field(multiple_of=2)]
    num_attention_heads: Size
    # Width of the text's tokens.
    joint_attention_dim: Size

    @property
    def heads(self) -> int:
        """See `AnyTransformer`."""
        return self.num_attention_heads

    @property
    def width(self) -> int:
        """See `AnyTransformer`."""
        return self.num_attention_heads * self.attention_head_dim

    @property
    def blocks(self) -> int:
        """See `AnyTransformer`."""
        return self.num_layers + int(getattr(self, "num_single_layers", 0))


def wrong_axes(
    axes: Sequence[int],
    head: int,
    count: str,
    *,
    key: str = "axes_dims_rope",
    of_head: str = "attention_head_dim",
) -> Iterator[str]:
    """What is wrong with the widths of rotary axes, which share a head of `head` values.

    :param key: of the axes, as `of_head` is what gives the head's width, for the message.
    """
    if sum(axes) != head or any(axis % 2 for axis in axes):
        yield (
            f"{key} = {list(axes)}: expected {count} even numbers whose sum is {of_head} = {head}"
        )


def wrong_outputs(given: int | None, channels: int) -> Iterator[str]:
    """What is wrong with a transformer's `out_channels`: it gives as many as it takes."""
    if given not in (None, channels):
        yield f"out_channels = {given}: expected null or in_channels = {channels}"


class TransformersConfig(Config):
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
