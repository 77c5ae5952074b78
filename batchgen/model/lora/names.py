"""How tools name the linears of a model in LoRA files.

A name is a prefix and a path. The prefix says who wrote it and which component is meant. The path
is diffusers', or that of the model's authors (`authors.py`). kohya's scripts write `_` for `.`, so
all names are compared in that form.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from batchgen.model.lora.authors import KINDS, MADE_FOR, Kind

Shape = tuple[int, int]
"""Outputs and inputs of a linear."""

# What begins a name → the component; None: the T5 encoder. The first that fits is taken.
_TEXT_PREFIXES = {
    "lora_te1_": "text_encoder",
    "lora_te_": "text_encoder",
    "text_encoders.clip_l.transformer.": "text_encoder",
    "text_encoder.": "text_encoder",
    "lora_te2_": "text_encoder_2",
    "text_encoders.clip_g.transformer.": "text_encoder_2",
    "text_encoder_2.": "text_encoder_2",
    "text_encoder_3.": "text_encoder_3",
    "lora_te3_": None,
    "text_encoders.t5xxl.transformer.": None,
}
PEFT = "base_model.model."
"""peft's prefix, which may stand before or behind the component's."""
_TRANSFORMER_PREFIXES = (
    "lora_unet_",
    "lora_transformer_",
    "lycoris_",
    "model.diffusion_model.",
    "diffusion_model.",
    "transformer.",
)
# Who begins names so, for messages. The first that fits is taken.
_WRITERS = {
    PEFT: "peft",
    "lora_unet_": "kohya's scripts and musubi-tuner",
    "lora_transformer_": "OneTrainer",
    "lora_te": "kohya's scripts and OneTrainer",
    "lycoris_": "LyCORIS",
    "model.diffusion_model.": "checkpoints of one file",
    "diffusion_model.": "ComfyUI and ai-toolkit",
    "text_encoders.": "ComfyUI",
    "transformer.": "diffusers",
    "text_encoder": "diffusers",
}

# Modules whose matrices have a row for each token or position.
_TABLES = (
    *("token_embedding", "position_embedding"),  # CLIP
    *("shared", "embed_tokens", "relative_attention_bias"),  # T5
)


@dataclass(frozen=True, slots=True)
class Linears:
    """The linears that a name in a LoRA file means."""

    # As `linear_name` writes them. Their rows, stacked, are the rows of the product.
    names: tuple[str, ...]
    # The authors' modulation by two vectors has shift before scale, and diffusers' has scale first.
    halves_exchanged: bool


def linear_name(component: str, path: str) -> str:
    """A linear's name for comparison: `component.path`, with `_` for the path's `.`.

    CLIP's `text_model` and a language model's `model` and `language_model` are left out, because
    some formats and versions do so.
    """
    name = re.sub(r"^((text_|language_)?model_)+", "", _comparable(path))
    return f"{component}.{name}"


def is_table(tensor: str) -> bool:
    """Whether a matrix of a text encoder is looked up by row, and is no linear's weight."""
    return tensor.removesuffix(".weight").rpartition(".")[2] in _TABLES


def split_prefix(module: str, components: set[str]) -> tuple[str, str]:
    """The component that a name in a LoRA file means, and the path in it, as the file writes it.

    :param components: those of the model.
    """
    module = module.removeprefix(PEFT)
    for prefix, component in _TEXT_PREFIXES.items():
        if module.startswith(prefix):
            # T5 is the last of a model's text encoders.
            last = max(each for each in {*components, "text_encoder"} if each.startswith("text_"))
            return component or last, module.removeprefix(prefix).removeprefix(PEFT)
    prefix = next((each for each in _TRANSFORMER_PREFIXES if module.startswith(each)), "")
    return "transformer", module.removeprefix(prefix).removeprefix(PEFT)


def find_linears(component: str, path: str, known: Mapping[str, Shape]) -> Linears | None:
    """The linears that a path in a LoRA file means; None: the model has not all of them.

    :param path: as the file writes it.
    :param known: the linears of the model.
    """
    name, ours, shift_first = _comparable(path), [_comparable(path)], False
    if component == "transformer" and (kind := kind_of(known)):
        ours, shift_first = _from_original(name, kind)
    names = tuple(linear_name(component, each) for each in ours)
    if not all(each in known for each in names):
        return None
    outputs, inputs = known[names[0]]
    return Linears(names, halves_exchanged=shift_first and outputs == 2 * inputs)


def made_for(path: str) -> str:
    """The models that a path in a LoRA file belongs to; "" if it tells nothing."""
    name = _comparable(path)
    return next((model for pattern, model in MADE_FOR.items() if re.match(pattern, name)), "")


def written_by(module: str) -> str:
    """The tools that write a name in a LoRA file so; "" where it has no prefix."""
    return next((who for prefix, who in _WRITERS.items() if module.startswith(prefix)), "")


def kind_of(known: Mapping[str, Shape]) -> Kind | None:
    """The kind of model that has these linears; None: one whose authors' names are not known."""
    return next((each for each in KINDS if linear_name("transformer", each.mark) in known), None)


def _comparable(path: str) -> str:
    return path.replace(".", "_")


def _from_original(name: str, kind: Kind) -> tuple[list[str], bool]:
    """A name of the model's authors in diffusers' words, and whether it has shift before scale.

    A name that is none of theirs comes back as it is.
    """
    originals, shift_first = _compared(kind.name)
    block = re.search(r"_(\d+)_", name)
    any_block = name.replace(block[0], "_*_", 1) if block else name
    for theirs in (name, any_block):
        if theirs in originals:
            number = block[1] if block else ""
            ours = [each.replace("*", number) for each in originals[theirs]]
            return ours, theirs in shift_first
    return [name], False


@cache
def _compared(kind: str) -> tuple[dict[str, list[str]], set[str]]:
    """The table of a kind of model, in the form in which names are compared."""
    its = next(each for each in KINDS if each.name == kind)
    originals = {
        _comparable(theirs): [_comparable(each) for each in ours.split()]
        for theirs, ours in its.originals.items()
    }
    return originals, {_comparable(each) for each in its.shift_first}
