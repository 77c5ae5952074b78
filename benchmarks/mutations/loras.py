"""Mutated LoRA files for the embedded model: names, shapes, settings, headers and bytes.

An accepted LoRA is fused into the model, which then paints one small picture.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save

from batchgen.model import TINY, read_header
from benchmarks.mutations.hostile import NUMBERS, TEXTS, mutate_file, value
from benchmarks.mutations.models import mutated_safetensors
from benchmarks.mutations.painting import SETTINGS, paint
from benchmarks.mutations.settings import prompts
from benchmarks.mutations.trial import Trial

RANK = 2
# A smaller strength may be lost in the rounding of the weights.
_LEAST_SCALE = 0.01
# How the tools of the field spell a linear's name and its two matrices.
_SPELLINGS = {
    "diffusers": ("transformer.{}", ".lora_A.weight", ".lora_B.weight"),
    "peft": ("base_model.model.{}", ".lora_A.weight", ".lora_B.weight"),
    "peft with an adapter's name": (
        "transformer.{}",
        ".lora_A.default.weight",
        ".lora_B.default.weight",
    ),
    "bare": ("{}", ".lora_A.weight", ".lora_B.weight"),
    "kohya": ("lora_unet_{_}", ".lora_down.weight", ".lora_up.weight"),
    "ComfyUI": ("diffusion_model.{}", ".lora_down.weight", ".lora_up.weight"),
    "old diffusers": ("transformer.{}", ".lora.down.weight", ".lora.up.weight"),
}
_FURTHER = (
    *("{}.dora_scale", "{}.lora_magnitude_vector.weight", "{}.hada_w1_a", "{}.lokr_w1", "{}.diff"),
    *("{}.alpha", "{}.lora_B.bias", "text_encoder.x.lora_A.weight", "foo", "\x1b[31m", "{}.diff_b"),
)


def trial(chance: Random, folder: Path) -> Trial:
    """A LoRA with one mutation or none, planned."""
    names = ("style.safetensors",) * 5 + ("a%j b.safetensors", "\x1b[1m.safetensors")
    path = folder / chance.choice(names)
    spelling = chance.choice((*["diffusers"] * 4, *_SPELLINGS))
    tensors, metadata, about = _tensors(chance, spelling), {}, "sound"
    kind = chance.randrange(10)
    if kind < 5:
        about, metadata = _mutate(chance, tensors)
    path.write_bytes(save(tensors, metadata))
    if kind in (5, 6, 7, 8):
        about = mutate_file(chance, path, mutated_safetensors)
    scale = chance.choice((*[1.0] * 60, 0.5, -1, *NUMBERS))
    table = f"{{path = {json.dumps(str(path))}, scale = {scale}}}"
    settings = [*SETTINGS, f"model.lora=[{table}]"]
    words = [word for one in settings for word in ("--set", one)]
    return Trial(
        f"{spelling}, scale {scale}: {about}",
        [["plan", prompts(folder), *words]],
        wrong_if_accepted=lambda _: _wrong(settings, path, scale),
    )


def _wrong(settings: list[str], path: Path, scale: float) -> str:
    """What a worker does wrong with an accepted LoRA: it ends, or it paints as without."""
    latents, wrong = paint(settings)
    if wrong or abs(scale) < _LEAST_SCALE or not _changes(path):
        return wrong
    same = bool((latents == _without()).all())
    return "planned, and the picture is the one without the LoRA" if same else ""


def _changes(path: Path) -> bool:
    """Whether the product of two matrices of a file is not zero, whatever they are called."""
    tensors = load_file(path)
    if any(name.endswith("alpha") and not np.any(one) for name, one in tensors.items()):
        return False
    pairs = ((name, _other_matrix(name)) for name in tensors)
    return any(
        name != other and other in tensors and np.any(tensors[other] @ tensors[name])
        for name, other in pairs
    )


def _other_matrix(name: str) -> str:
    """The name of the matrix B that belongs to a matrix A."""
    return name.replace("lora_A", "lora_B").replace("down", "up")


@cache
def _without() -> Any:
    return paint(SETTINGS)[0]


@cache
def _linears() -> dict[str, tuple[int, int]]:
    """Name → (out, in) of the linears of the embedded model's transformer blocks."""
    header = read_header(TINY / "transformer" / "diffusion_pytorch_model.safetensors")
    return {
        name.removesuffix(".weight"): tuple(entry["shape"])
        for name, entry in header.items()
        if "blocks" in name and name.endswith(".weight") and len(entry["shape"]) == 2
    }


def _tensors(chance: Random, spelling: str) -> dict[str, Any]:
    """A sound LoRA for a few linears."""
    prefix, down, up = _SPELLINGS[spelling]
    random = np.random.default_rng(chance.randrange(2**32))
    tensors: dict[str, Any] = {}
    for name in chance.sample(list(_linears()), 3):
        out, inner = _linears()[name]
        spelled = prefix.replace("{_}", name.replace(".", "_")).replace("{}", name)
        tensors[spelled + down] = random.normal(0, 0.02, (RANK, inner)).astype(np.float32)
        tensors[spelled + up] = random.normal(0, 0.02, (out, RANK)).astype(np.float32)
    return tensors


def _mutate(chance: Random, tensors: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Change a LoRA in place; what was changed, and the file's metadata."""
    name = chance.choice(list(tensors))
    module = name.split(".lora")[0]
    kind = chance.randrange(7)
    if kind == 0:
        del tensors[name]
        return f"without {name}", {}
    if kind == 1:
        new_name = chance.choice(
            (f"x.{name}", name.replace("blocks.0", "blocks.77"), name.upper(), *TEXTS[:30])
        )
        new_name = new_name.encode("utf-8", "replace").decode()
        tensors[new_name] = tensors.pop(name)
        return f"{name} renamed {new_name[:50]!r}", {}
    if kind == 2:
        old = tensors[name]
        ways = (
            old.T,
            old[:1],
            old[:, :1],
            old[0],
            old[None],
            old[:0],
            old.ravel()[0:1].reshape(()),
            old.astype(np.int8),
        )
        tensors[name] = np.ascontiguousarray(chance.choice(ways))
        return f"{name} of shape {tensors[name].shape}, {tensors[name].dtype}", {}
    if kind == 3:
        tensors[name].flat[0] = chance.choice((np.nan, np.inf, 1e38))
        return f"{name} begins with {tensors[name].flat[0]}", {}
    if kind == 4:
        new_name = chance.choice(_FURTHER).replace("{}", module)
        shape = chance.choice(((), (1,), (2, 2)))
        tensors[new_name] = np.full(shape, chance.choice((0, 1, 4, -1, np.nan, np.inf)), np.float32)
        return f"with {new_name!r} of shape {tensors[new_name].shape}", {}
    metadata = _metadata(chance)
    return f"metadata {metadata}"[:100], metadata


def _metadata(chance: Random) -> dict[str, str]:
    settings = {
        "transformer.r": RANK,
        "transformer.lora_alpha": 4,
        "transformer.use_rslora": True,
        "transformer.use_dora": False,
        "transformer.alpha_pattern": {"attn": 8},
    }
    if chance.random() < 0.7:
        settings[chance.choice(list(settings))] = value(chance)
        text = json.dumps(settings)
    else:
        text = (
            chance.choice((*TEXTS, "[]", "{}", "[" * 100_000, '{"transformer.r": '))
            .encode("utf-8", "replace")
            .decode()
        )
    key = chance.choice(("lora_adapter_metadata",) * 4 + ("ss_network_alpha", "format", "\x1b[31m"))
    return {key: text}
