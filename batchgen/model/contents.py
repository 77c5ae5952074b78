"""Whether a component's weight files hold the tensors that its configuration asks for, and no more.

The libraries leave out what has no place in a model: scales beside FP8 weights, a LoRA that was not
merged, blocks beyond those of the configuration. The pictures would be others, without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError, counted
from batchgen.model.components.autoencoder import Autoencoder, Flux2Vae, Vae
from batchgen.model.components.clip import Clip, ClipWithProjection
from batchgen.model.components.config import Config
from batchgen.model.components.mistral3 import Mistral3
from batchgen.model.components.qwen3 import Qwen3
from batchgen.model.components.qwen25_vl import Qwen25VL
from batchgen.model.components.t5 import T5
from batchgen.model.components.tensors import Shape

# Types that can stand for weights as they are. FP8 with scales has tensors without a place.
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
# Tensors of published files that cannot change a picture: other halves of the same model, and
# buffers that are computed anew. By the kind of component.
_OF_CLIP = r"embeddings\.position_ids|logit_scale|vision_model\..+|visual_projection\.weight"
_HARMLESS: dict[type[Config], str] = {
    Clip: rf"{_OF_CLIP}|text_projection\.weight",
    ClipWithProjection: _OF_CLIP,
    T5: r"decoder\..+|lm_head\.weight",
    # Of encoding. What decodes is never harmless.
    Vae: r"quant_conv\.(weight|bias)",
    Flux2Vae: r"quant_conv\.(weight|bias)|bn\.num_batches_tracked",
    # What sees, and what predicts the next token.
    Qwen25VL: r"visual\..+|lm_head\.weight",
}
# Older names of a VAE's attention, which diffusers renames.
_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLDER_NAME = re.compile(rf"(\.attentions\.\d+\.)({'|'.join(_OLDER)})\.")
# Where versions of transformers have put the language model in a Mistral3.
_LANGUAGE_MODEL = re.compile(r"^(model\.)?(language_model\.(model\.)?)?")
# What names without a place say about a file, and what to do.
_STRANGERS = {
    r"^(model\.diffusion_model|double_blocks|single_blocks|joint_blocks)\.": (
        "a single-file checkpoint's. Convert it with diffusers: "
        "PIPELINE.from_single_file('FILE').save_pretrained('NEW-FOLDER')"
    ),
    r"lora|dora|\.base_layer\.": (
        "a LoRA's that is not merged. Give the LoRA as [[model.lora]], or merge it before saving: "
        "pipe.fuse_lora(); pipe.unload_lora_weights(); pipe.save_pretrained('NEW-FOLDER')"
    ),
    r"scale_(weight|input)|(weight|input)_scale|scaled_fp8|absmax|quant_(map|state)|comfy_quant|"
    r"qweight|qzeros|\.SCB$": (
        "a scale of quantized weights, which are wrong without it. Give the bf16 checkpoint; "
        "precision.linear quantizes it"
    ),
}
_OTHER = "The weights and config.json are of different models: fetch both again"


def canonical_names(header: Mapping[str, Any], kind: type[Config]) -> Iterator[tuple[str, str]]:
    """Each tensor of a weight file under its name in `components/`, and under its own.

    :param header: of the file.
    :param kind: of the component.
    """
    for name in header:
        if name != "__metadata__":
            yield _canonical(name, kind), name


def is_harmless(name: str, config: Config) -> bool:
    """Whether a tensor has no place in the model and cannot change a picture.

    :param name: canonical.
    """
    if isinstance(config, Qwen3 | Mistral3) and config.comes_after(name):
        return True
    return re.fullmatch(_HARMLESS.get(type(config), ""), name) is not None


def check_weights(config: Config, headers: Mapping[Path, Mapping[str, Any]], built: str) -> None:
    """Compare the headers of a component's weight files with its configuration.

    :param headers: of each file.
    :param built: the class that the engine builds, for messages.
    :raises ModelError: tensors are missing, of another shape, of a type that stands for other
        numbers, or without a place; with their file, their number and the first of them.
    """
    expected, kind = dict(config.tensors()), type(config)
    problems: list[str] = []
    found: dict[str, Path] = {}
    for path, header in headers.items():
        tensors = {
            ours: header[theirs]
            for ours, theirs in canonical_names(header, kind)
            if ours in expected or not is_harmless(ours, config)
        }
        problems += (f"{path}: {problem}" for problem in _misfits(tensors, expected, built))
        if twice := [name for name in tensors if name in found]:
            problems.append(f"{path}: {_some(twice)} also in {found[twice[0]].name}")
        found |= dict.fromkeys(tensors, path)
    if missing := [name for name in expected if name not in found]:
        (folder,) = {path.parent for path in headers}
        problems.append(
            f"{folder}: {built} needs {_some(missing)} that no weight file holds. {_OTHER}"
        )
    if problems:
        raise ModelError("\n".join(problems))


def _misfits(
    tensors: Mapping[str, Any], expected: Mapping[str, Shape], built: str
) -> Iterator[str]:
    """What is wrong with the tensors of a file."""
    if strangers := [name for name in tensors if name not in expected]:
        yield (
            f"{built} has no place for {_some(strangers)}: loading would leave them out. "
            f"{_remedy(strangers)}"
        )
    known = {name: tensor for name, tensor in tensors.items() if name in expected}
    shapes = {name: tuple(tensor["shape"]) for name, tensor in known.items()}
    if other := [name for name, shape in shapes.items() if shape != expected[name]]:
        first = f"{other[0]} is {shapes[other[0]]}, expected {expected[other[0]]}"
        yield f"{_some(other)} of another shape than config.json asks for: {first}. {_OTHER}"
    if whole := [name for name, tensor in known.items() if tensor["dtype"] not in FLOATS]:
        yield (
            f"{_some(whole)} of type {known[whole[0]]['dtype']}: quantized weights, which batchgen "
            "does not load. Give the bf16 checkpoint; precision.linear quantizes it"
        )


def _canonical(name: str, kind: type[Config]) -> str:
    if issubclass(kind, Clip):
        return name.removeprefix("text_model.")
    if kind is T5:
        return "shared.weight" if name == "encoder.embed_tokens.weight" else name
    if issubclass(kind, Qwen3):
        return name.removeprefix("model.")
    if kind is Qwen25VL:
        return name.removeprefix("model.").removeprefix("language_model.")
    if issubclass(kind, Mistral3):
        return _LANGUAGE_MODEL.sub("", name)
    if issubclass(kind, Autoencoder):
        return _OLDER_NAME.sub(lambda part: f"{part[1]}{_OLDER[part[2]]}.", name)
    return name


def _some(names: list[str]) -> str:
    """The number of tensors, and the first three."""
    more = ", ..." if len(names) > 3 else ""
    return f"{counted(len(names), 'tensor')} ({', '.join(names[:3])}{more})"


def _remedy(strangers: list[str]) -> str:
    """What names without a place are, and what to do."""
    for pattern, what in _STRANGERS.items():
        if named := [name for name in strangers if re.search(pattern, name, re.IGNORECASE)]:
            return f"{named[0]} looks like {what}"
    return _OTHER
