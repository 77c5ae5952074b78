"""The settings of peft that a LoRA file brings, checked.

They are where the tool put them: diffusers writes them into the file's metadata, as JSON under
`lora_adapter_metadata`, with the component before each name (`transformer.lora_alpha`) or bare;
others write bare names into the metadata itself; peft writes `adapter_config.json` beside the file.
Settings that change the weights in another way than a product of two matrices are refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from batchgen.errors import ModelError
from batchgen.model.folder import read_json

_METADATA_KEY = "lora_adapter_metadata"
_COMPONENTS = ("transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
# Settings that decide where and how a LoRA is trained. What they changed is in the tensors.
_TRAINING = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules", "task_type"),
    *("corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "loftq_config"),
    *("lora_dropout", "lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config"),
)
# Initialisations that leave the model's own weights as they are. PiSSA and its like do not: their
# LoRA is a change of other weights than the model's.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
# How many things a pattern may repeat. Repetition in repetition could take forever to match.
_REPETITIONS = 2


Number = TypeVar("Number", int, float)


@dataclass(frozen=True, slots=True)
class PeftSettings:
    """What peft's settings say of a component's modules; names are peft's."""

    lora_alpha: float | None = None
    # The rank. The matrices have it, too.
    r: int | None = None
    # Whether the root of the rank takes the rank's place.
    use_rslora: bool = False
    # By regular expressions that end the paths of modules.
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    rank_pattern: Mapping[str, int] = field(default_factory=dict)

    def alpha(self, module: str) -> float | None:
        """A module's alpha; None: not given."""
        return _by_pattern(self.alpha_pattern, module, self.lora_alpha)

    def rank(self, module: str) -> int | None:
        """A module's rank; None: not given."""
        return _by_pattern(self.rank_pattern, module, self.r)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _are(values: Any, kind: Callable[[Any], bool]) -> bool:
    # Some versions of peft write null for "no patterns".
    return values is None or (isinstance(values, dict) and all(map(kind, values.values())))


# Settings that are read: what is accepted, in words and as a check.
_READ: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lora_alpha": ("a number", _is_number),
    "r": ("a whole number over 0", _is_rank),
    "use_rslora": ("true or false", lambda value: isinstance(value, bool)),
    "use_dora": ("true or false", lambda value: isinstance(value, bool)),
    "alpha_pattern": ("numbers by module", lambda value: _are(value, _is_number)),
    "rank_pattern": ("whole numbers by module", lambda value: _are(value, _is_rank)),
}


def read_settings(
    path: Path, metadata: Mapping[str, str], config: Path | None
) -> dict[str, PeftSettings]:
    """Component → the settings for it, from all places where they may stand.

    :param path: the LoRA file, for messages.
    :param metadata: the file's.
    :param config: `adapter_config.json`; None: there is none.
    :raises ModelError: they are not JSON, have impossible values, contradict each other, or change
        the weights in a way that is not LoRA's.
    """
    found: dict[str, dict[str, Any]] = {component: {} for component in _COMPONENTS}
    for source, content in _sources(path, metadata, config):
        for key, value in content.items():
            components, name = _check(key, value, source)
            for component in components:
                before = found[component].setdefault(name, value)
                if before != value:
                    raise ModelError(f"{source}: {name} is {value!r}, and elsewhere {before!r}")
    if any(values.pop("use_dora", False) for values in found.values()):
        raise ModelError(
            f"{path}: a DoRA (use_dora), which batchgen does not fuse; "
            "merge it into the checkpoint, and give that as model.path"
        )
    return {
        component: PeftSettings(
            **{key: value for key, value in values.items() if value is not None}
        )
        for component, values in found.items()
    }


def _sources(
    path: Path, metadata: Mapping[str, str], config: Path | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each place with settings, in words, and what stands there."""
    if _METADATA_KEY in metadata:
        source = f"{path}: its metadata {_METADATA_KEY}"
        content = _json(metadata[_METADATA_KEY], source)
        if not isinstance(content, dict):
            raise ModelError(f"{source} is {metadata[_METADATA_KEY][:40]!r}: expected an object")
        yield source, content
    source = f"{path}: its metadata"
    bare = {key: text for key, text in metadata.items() if key.rpartition(".")[2] in _READ}
    yield source, {key: _json(text, f"{source} {key}") for key, text in bare.items()}
    if config is not None:
        yield str(config), read_json(config)


def _json(text: str, source: str) -> Any:
    try:
        # Some tools write Python's words.
        words = {"True": "true", "False": "false"}
        return json.loads(words.get(text, text), object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{source} is not JSON: {error}; save the LoRA again with the tool that made it"
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which no key stands twice: Python would take the last."""
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError(f"a key stands twice: {', '.join(key for key, _ in pairs)[:80]}")
    return content


def _check(key: str, value: Any, source: str) -> tuple[tuple[str, ...], str]:
    """The components and the name of a setting; no components: it is not read, and need not be."""
    component, _, name = key.rpartition(".")
    if name not in _READ:
        _check_unread(key, name, value, source)
        return (), name
    accepted, fits = _READ[name]
    if not fits(value):
        raise ModelError(f"{source}: {key} = {value!r}: expected {accepted}")
    if component not in ("", *_COMPONENTS):
        raise ModelError(
            f"{source}: {key} is for {component!r}, which no model here has; expected the name "
            f"alone, or behind one of: {', '.join(_COMPONENTS)}"
        )
    for pattern in value if isinstance(value, dict) else ():
        _check_pattern(pattern, source)
    return (component,) if component else _COMPONENTS, name


def _check_pattern(pattern: str, source: str) -> None:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ModelError(f"{source}: the pattern {pattern!r} is not one: {error}") from None
    if len(re.findall(r"(?<!\\)[*+{]", pattern)) > _REPETITIONS:
        raise ModelError(
            f"{source}: the pattern {pattern!r} repeats more than {_REPETITIONS} things; "
            "expected names of modules"
        )


def _check_unread(key: str, name: str, value: Any, source: str) -> None:
    """Check that a setting that is not read changes no weights: peft's defaults do not."""
    harmless = (
        name in _TRAINING
        or (name == "init_lora_weights" and value in _INITIALISATIONS)
        or (name == "peft_type" and value == "LORA")
        or value in (None, False, "none", "", [], {})
    )
    if not harmless:
        raise ModelError(
            f"{source}: {key} = {json.dumps(value)[:60]} changes more than a product of two "
            "matrices does, and batchgen does not apply it; merge the LoRA into the checkpoint "
            "with peft, and give that as model.path"
        )


def _by_pattern(
    patterns: Mapping[str, Number], module: str, default: Number | None
) -> Number | None:
    """By peft's rule: the value of the first pattern that ends the module's path, else default."""
    for pattern, value in patterns.items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return value
    return default
