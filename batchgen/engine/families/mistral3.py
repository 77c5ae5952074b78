"""The language model in a Mistral3, which reads pictures too, as a text encoder.

Its picture's half, what predicts the next token, and layers behind the last one that a family reads
are not loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers
from torch import nn


@dataclass(frozen=True, slots=True)
class Mistral3Text:
    """Stands for a class where one is loaded: `loading.load_module`.

    The module's output is that of its last layer, without the final norm.
    """

    # The last layer that is read, as the end of a slice: 30 are the first 30, -1 all but the last.
    end: int
    __name__ = "Mistral3Model"

    def from_pretrained(self, path: Path, **options: Any) -> tuple[Any, dict[str, Any]]:
        """The module of a model folder, and what the library tells of its loading."""
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True).text_config
        # Versions of the library have put the language model under several names.
        names = {r"^(?:model\.)?language_model\.(?:model\.)?": ""}
        module, told = self._class_of(config).from_pretrained(
            path, config=self._shortened(config), key_mapping=names, **options
        )
        module.norm = nn.Identity()
        return module, told

    def from_config(self, config: dict[str, Any]) -> Any:
        """The module with random weights, for a `config.json`'s content."""
        text = transformers.Mistral3Config.from_dict(config).text_config
        module = self._class_of(text)(self._shortened(text))
        module.norm = nn.Identity()
        return module

    def _shortened(self, config: Any) -> Any:
        config.num_hidden_layers = len(range(config.num_hidden_layers)[: self.end])
        return config

    @staticmethod
    def _class_of(config: Any) -> Any:
        return transformers.MODEL_MAPPING[type(config)]
