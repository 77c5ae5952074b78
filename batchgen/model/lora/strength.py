"""How strongly a module of a LoRA acts: alpha / rank, from the file's tensors and peft's settings.

A module's own alpha counts first, then a pattern of `alpha_pattern`, then `lora_alpha`, then the
rank (kohya's scripts, diffusers and ComfyUI do the same). With `use_rslora` the root of the rank
takes the rank's place.

peft's settings are where the tool put them: diffusers writes them into the file's metadata, as
JSON under `lora_adapter_metadata`, with the component before each name (`transformer.lora_alpha`)
or bare; others write bare names into the metadata itself; peft writes `adapter_config.json` beside
the file. Settings that change the weights in another way are refused.
LoRA: https://arxiv.org/abs/2106.09685; rsLoRA: https://arxiv.org/abs/2312.03732
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.model.folder import read_json

_METADATA_KEY = "lora_adapter_metadata"
_COMPONENTS = ("", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
# Settings that decide where and how a LoRA is trained. What they changed is in the tensors.
_TRAINING = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
        *("exclude_modules", "layers_pattern", "layers_to_transform", "target_modules"),
        *("corda_config", "ensure_weight_tying", "eva_config", "fan_in_fan_out", "loftq_config"),
        *("lora_dropout", "lora_ga_config", "megatron_core", "qalora_group_size", "runtime_config"),
        "task_type",
    )
)
# Initialisations that leave the model's own weights as they are. PiSSA and its like do not: their
# LoRA is a change of other weights than the model's.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
# A pattern may repeat something this often. Nested repetition could take forever to match.
_REPETITIONS = 2


def _is_kohyas(module: str) -> bool:
    return module.startswith("lora_")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_pattern(value: Any, of: Callable[[Any], bool]) -> bool:
    if value is None:  # peft's own files have it for "none"
        return True
    return isinstance(value, dict) and all(map(of, value.values()))


# Settings that are read: what is accepted, in words and as a check.
_READ: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lora_alpha": ("a number", _is_number),
    "r": ("a whole number over 0", _is_rank),
    "use_rslora": ("true or false", lambda value: isinstance(value, bool)),
    "use_dora": ("true or false", lambda value: isinstance(value, bool)),
    "alpha_pattern": ("numbers by module", lambda value: _is_pattern(value, _is_number)),
    "rank_pattern": ("whole numbers by module", lambda value: _is_pattern(value, _is_rank)),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """peft's settings of a LoRA file, checked."""

    # The LoRA file, for messages.
    path: Path
    # Component, "" for all of them → name → value.
    values: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, content: Mapping[str, Any], source: str) -> None:
        """Check settings, and take those that decide the strength.

        :param source: where they stand, for messages.
        :raises ModelError: an impossible value, one that contradicts an earlier one, or one that
            changes the weights in a way that is not LoRA's.
        """
        for key, value in content.items():
            component, _, name = key.rpartition(".")
            if name in _READ:
                accepted, fits = _READ[name]
                if not fits(value):
                    raise ModelError(f"{source}: {key} = {value!r}: expected {accepted}")
                if component not in _COMPONENTS:
                    raise ModelError(
                        f"{source}: {key} is for {component!r}, which no model here has; expected "
                        f"the name alone, or behind one of: {', '.join(_COMPONENTS[1:])}"
                    )
                _check_patterns(value, source)
                self._put(component, name, value, source)
            else:
                _check_unread(key, name, value, source)

    def check_names(self, modules: Iterable[str]) -> None:
        """Check that patterns, which are stated by paths with points, can find the modules.

        :param modules: their names in the file.
        :raises ModelError: there are patterns, and names are of kohya's kind, without points.
        """
        with_patterns = any(
            values.get("alpha_pattern") or values.get("rank_pattern")
            for values in self.values.values()
        )
        if with_patterns and (name := next(filter(_is_kohyas, modules), "")):
            raise ModelError(
                f"{self.path}: its settings have patterns for names of peft's kind, and {name} is "
                "of kohya's; save the LoRA again with the tool that made it"
            )

    def strength(self, component: str, module: str, rank: int, alpha: float | None) -> float:
        """The factor of a module's product.

        :param module: its name, without prefix.
        :param rank: columns of B.
        :param alpha: the module's own.
        :raises ModelError: the settings tell another rank, or a strength of nothing.
        """
        values = self.values.get("", {}) | self.values.get(component, {})
        expected = _by_pattern(values.get("rank_pattern"), module, values.get("r"))
        if expected not in (None, rank):
            raise ModelError(
                f"{self.path}: {module} has rank {rank}, and its settings say {expected}; "
                "the file was changed after training: take the original"
            )
        if alpha is None:
            alpha = _by_pattern(values.get("alpha_pattern"), module, values.get("lora_alpha"))
        rslora = values.get("use_rslora", False)
        if alpha is None and rslora:
            raise ModelError(f"{self.path}: {module} has use_rslora, but no lora_alpha")
        if alpha is None:
            return 1.0
        if alpha == 0 or not math.isfinite(alpha):
            raise ModelError(
                f"{self.path}: {module} has alpha {alpha:g}, with which it would change "
                "nothing, or everything to NaN; expected a number other than 0"
            )
        return alpha / (math.sqrt(rank) if rslora else rank)

    def _put(self, component: str, name: str, value: Any, source: str) -> None:
        """Take a value, which may stand for all components or for one."""
        others = self.values if component == "" else {"", component}
        for other in others:
            before = self.values.get(other, {}).get(name, value)
            if before != value:
                raise ModelError(f"{source}: {name} is {value!r}, and elsewhere {before!r}")
        self.values.setdefault(component, {})[name] = value


def read_settings(path: Path, metadata: Mapping[str, str], config: Path | None) -> Settings:
    """All settings of peft's that a file brings, from wherever they stand.

    :param path: the LoRA file.
    :param metadata: its metadata.
    :param config: peft's `adapter_config.json`; None: there is none.
    :raises ModelError: they are not JSON, or not what can be fused; see `Settings.add`.
    """
    settings = Settings(path)
    if _METADATA_KEY in metadata:
        source = f"{path}: its metadata {_METADATA_KEY}"
        content = _json(metadata[_METADATA_KEY], source)
        if not isinstance(content, dict):
            raise ModelError(f"{source} is {metadata[_METADATA_KEY][:40]!r}: expected an object")
        settings.add(content, source)
    source = f"{path}: its metadata"
    bare = {key: text for key, text in metadata.items() if key.rpartition(".")[2] in _READ}
    settings.add({key: _json(text, f"{source} {key}") for key, text in bare.items()}, source)
    if config is not None:
        settings.add(read_json(config), str(config))
    if any(values.get("use_dora") for values in settings.values.values()):
        raise ModelError(
            f"{path}: a DoRA (use_dora), which batchgen does not fuse; "
            "merge it into the checkpoint, and give that as model.path"
        )
    return settings


def _json(text: str, source: str) -> Any:
    try:
        return json.loads({"True": "true", "False": "false"}.get(text, text))
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{source} is not JSON: {error}; save the LoRA again with the tool that made it"
        ) from None


def _check_patterns(value: Any, source: str) -> None:
    """Check the keys of an `alpha_pattern` or `rank_pattern`."""
    for pattern in value if isinstance(value, dict) else ():
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


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that names the module, else the default."""
    named = (value for pattern, value in (patterns or {}).items() if _matches(pattern, module))
    return next(named, default)


def _matches(pattern: str, module: str) -> bool:
    """Whether a pattern names a module: by peft's rule, if the module's path ends with it."""
    return re.fullmatch(rf"(.*\.)?({pattern})", module) is not None
