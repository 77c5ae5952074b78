"""A LoRA file and a model's linears → what is added to which of them.

    W ← W + scale · strength · B·A        A [rank, in], B [out, rank], strength = alpha / rank

Everything that can be wrong with a LoRA is found here, from the file and the shapes of the model's
linears, without torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.model.lora.names import (
    PEFT,
    Linears,
    Shape,
    find_linears,
    kind_of,
    made_for,
    split_prefix,
    written_by,
)
from batchgen.model.lora.numbers import MATRIX_TYPES, check_finite, read_alphas
from batchgen.model.lora.peft_settings import PeftSettings, read_settings
from batchgen.model.lora.strength import find_strength
from batchgen.model.lora.tensors import Module, group_tensors
from batchgen.model.weights import read_header

_NUMBER_SHAPES: tuple[list[int], ...] = ([], [1])
# What peft saves beside its weights.
_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Addition:
    """A product of two matrices, and the linears to whose stacked weights it is added."""

    # The module's name in the file.
    module: str
    # Names of B [out, rank] and A [rank, in] in the file.
    up: str
    down: str
    # alpha / rank.
    strength: float
    linears: Linears


def lora_files(path: Path) -> list[Path]:
    """The files of a LoRA: its weights, and the settings that peft writes beside them.

    :raises ModelError: the file is missing, no regular file, or broken.
    """
    return [path, *_config(path, _header(path))]


def read_lora(path: Path, linears: Mapping[str, Shape]) -> list[Addition]:
    """What a LoRA file adds to a model. Together the additions are all that the file holds.

    :param linears: the model's, by `linear_name`.
    :raises ModelError: the file is broken, holds something that would stay unapplied, or does not
        fit the model.
    """
    header = _header(path)
    metadata = header.pop("__metadata__", {})
    settings = read_settings(path, metadata, next(iter(_config(path, header)), None))
    modules = group_tensors(path, header)
    found = _find(path, modules, linears)
    ranks = {name: _check_matrices(path, name, module, header) for name, module in modules.items()}
    alphas = _read_alphas(path, modules, header)
    _check_patterns_fit(path, modules, settings)
    additions = []
    for name, module in modules.items():
        component, inner, meant = found[name]
        strength = find_strength(
            settings[component],
            inner,
            rank=ranks[name],
            alpha=alphas.get(module.alpha),
            where=f"{path}: {name}",
        )
        additions.append(Addition(name, module.up, module.down, strength, meant))
        _check_shape(path, additions[-1], header, linears)
    _check_once(path, additions)
    check_finite(path, [key for each in additions for key in (each.up, each.down)])
    return additions


def _header(path: Path) -> dict[str, Any]:
    """The file's header.

    :raises ModelError: it is no safetensors file. The message says what it is.
    """
    given = f"model.lora path = {str(path)!r}"
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        there = f"it holds {', '.join(map(str, files[:3]))}" if files else "it holds none"
        raise ModelError(f"{given}: a folder; give one .safetensors file: {there}.")
    if not path.exists():
        hint = "fetch a LoRA of the hub with: hf download NAME --local-dir FOLDER"
        raise ModelError(f"{given}: no such file; give one .safetensors file ({hint}).")
    if not path.is_file():
        raise ModelError(f"{given}: not a regular file; give one .safetensors file.")
    try:
        return read_header(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def _config(path: Path, header: Mapping[str, Any]) -> list[Path]:
    """The settings that peft writes beside its file."""
    config = path.parent / _CONFIG
    return [config] if config.is_file() and any(key.startswith(PEFT) for key in header) else []


def _check_matrices(path: Path, name: str, module: Module, header: Mapping[str, Any]) -> int:
    """The rank of a module whose matrices can be multiplied."""
    if not module.up or not module.down:
        there = module.up or module.down or module.alpha
        raise ModelError(
            f"{path}: {name} has only one of its two matrices, or none: there is {there}; "
            "fetch the file again"
        )
    up, down = (header[key]["shape"] for key in (module.up, module.down))
    if len(up) == len(down) == 4:
        raise ModelError(f"{path}: {name} is a convolution; batchgen fuses changes of linears only")
    if len(up) != 2 or len(down) != 2 or up[1] != down[0]:
        raise ModelError(f"{path}: {name}: {up} · {down} is no product of matrices")
    if not up[1]:
        raise ModelError(f"{path}: {name} has rank 0")
    for key in (module.up, module.down):
        if header[key]["dtype"] not in MATRIX_TYPES:
            kind, accepted = header[key]["dtype"], ", ".join(MATRIX_TYPES)
            raise ModelError(f"{path}: {key} has numbers of type {kind}; accepted are {accepted}")
    return int(up[1])


def _read_alphas(
    path: Path, modules: Mapping[str, Module], header: Mapping[str, Any]
) -> dict[str, float]:
    """Name of the tensor → the alpha that it holds."""
    keys = [module.alpha for module in modules.values() if module.alpha]
    for key in keys:
        if header[key]["shape"] not in _NUMBER_SHAPES:
            raise ModelError(f"{path}: {key} has shape {header[key]['shape']}; expected one number")
    return read_alphas(path, keys)


def _find(
    path: Path, modules: Mapping[str, Module], linears: Mapping[str, Shape]
) -> dict[str, tuple[str, str, Linears]]:
    """Each module's component, its path there as the file writes it, and the linears it means."""
    components = {name.partition(".")[0] for name in linears}
    found, foreign = {}, []
    for module in modules:
        component, inner = split_prefix(module, components)
        meant = find_linears(component, inner, linears)
        if meant is None:
            foreign.append((module, inner))
        else:
            found[module] = component, inner, meant
    if foreign:
        (first, inner), more = foreign[0], len(foreign) - 1
        others = f" ({more} more do not, either)" if more else ""
        who = f", as {writer} write it," if (writer := written_by(first)) else ""
        raise ModelError(
            f"{path}: {first}{who} names no linear of this model{others}; {_guess(inner, linears)}"
        )
    return found


def _guess(path: str, linears: Mapping[str, Shape]) -> str:
    """Why a name is foreign."""
    theirs, kind = made_for(path), kind_of(linears)
    if kind is None:
        return "is the LoRA made for another one?"
    if theirs and kind.name not in theirs:
        return f"the LoRA is made for {theirs}, and the model is a {kind.name}"
    return (
        f"is the LoRA made for another one? The model is a {kind.name}, with linears such as "
        f"{kind.example}"
    )


def _check_patterns_fit(
    path: Path, modules: Iterable[str], settings: Mapping[str, PeftSettings]
) -> None:
    """Check that patterns, which are stated by paths with points, can find the modules."""
    patterns = any(each.alpha_pattern or each.rank_pattern for each in settings.values())
    if kohyas := [name for name in modules if patterns and name.startswith("lora_")]:
        raise ModelError(
            f"{path}: its settings have patterns for names of peft's kind, and {kohyas[0]} is of "
            "kohya's; save the LoRA again with the tool that made it"
        )


def _check_shape(
    path: Path, addition: Addition, header: Mapping[str, Any], linears: Mapping[str, Shape]
) -> None:
    shapes = [linears[name] for name in addition.linears.names]
    found = header[addition.up]["shape"][0], header[addition.down]["shape"][1]
    wanted = sum(outputs for outputs, _ in shapes), shapes[0][1]
    if found != wanted:
        raise ModelError(
            f"{path}: {addition.module} is {found}, the model's {wanted} (outputs, inputs); "
            "is the LoRA made for a model of another size?"
        )


def _check_once(path: Path, additions: list[Addition]) -> None:
    """Check that no linear is changed twice: such files hold one LoRA in two spellings."""
    by: dict[str, str] = {}
    for addition in additions:
        for linear in addition.linears.names:
            if linear in by:
                raise ModelError(
                    f"{path}: {by[linear]} and {addition.module} both change {linear}, which would "
                    "be twice as strong as trained; keep one of the two spellings"
                )
            by[linear] = addition.module
