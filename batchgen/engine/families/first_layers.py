"""The first layers of a language model, as a text encoder: of Qwen3, or of the one in a Mistral3.

Families read the output of an inner layer. What comes after that layer is not loaded: further
layers, the last norm, what predicts the next token, and what sees pictures.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from torch import nn

# The language model's name in the files of all classes and versions that hold it.
_PREFIX = r"^(?:model\.)?(?:language_model\.(?:model\.)?)?"


@dataclass(frozen=True, slots=True)
class FirstLayers:
    """Stands for a class where one is loaded: `loading.load_module`.

    The module's output is that of its last layer, without the final norm.
    """

    # The last layer that is read, as the end of a slice: 30 are the first 30, -1 all but the last.
    end: int
    __name__ = "a language model"

    def from_pretrained(self, path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The module of a model folder, and what the library tells of its loading."""
        content = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config = self._shortened(content)
        kind: Any = transformers.MODEL_MAPPING[type(config)]
        module, told = kind.from_pretrained(
            path, config=config, key_mapping={_PREFIX: ""}, **options
        )
        module.norm = nn.Identity()
        return module, told

    def from_config(self, content: dict[str, Any]) -> Any:
        """The module with random weights, for a `config.json`'s content."""
        config = self._shortened(content)
        kind: Any = transformers.MODEL_MAPPING[type(config)]
        module = kind(config)
        module.norm = nn.Identity()
        return module

    def _shortened(self, content: dict[str, Any]) -> Any:
        """The language model's configuration, with as many layers as are read."""
        whole = transformers.AutoConfig.for_model(**content)
        config = getattr(whole, "text_config", whole)
        config.num_hidden_layers = len(range(config.num_hidden_layers)[: self.end])
        return config
