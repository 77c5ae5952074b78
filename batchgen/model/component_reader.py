"""The components of a model folder: configurations, checked, and headers of weight files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.model.components.config import Config, parse_config
from batchgen.model.components.scheduler import SCHEDULER, Scheduler
from batchgen.model.contents import FLOATS, canonical_names, is_harmless
from batchgen.model.families import FamilyFacts
from batchgen.model.folder import read_json, weight_files
from batchgen.model.weights import read_header


@dataclass(frozen=True, slots=True)
class ComponentReader:
    """Reads the components of a folder. Every file is read once, and every configuration checked.

    A component is named by its folder, as `text_encoder`.
    """

    folder: Path
    facts: FamilyFacts
    # What has been read: contents by file, and checked configurations by component.
    contents: dict[Path, dict[str, Any]]
    configs: dict[str, Config]

    def content(self, component: str) -> dict[str, Any]:
        """A component's configuration, as its file has it.

        :raises ModelError: the file is missing or damaged.
        """
        return self._read_once(self.folder / component / "config.json", read_json)

    def config(self, component: str) -> Config:
        """A component's configuration, checked.

        :raises ModelError: it is missing, or of another class, or has impossible values.
        """
        if component not in self.configs:
            self.configs[component] = self._checked(component)
        return self.configs[component]

    def _checked(self, component: str) -> Config:
        path, content = self.folder / component / "config.json", self.content(component)
        if "quantization_config" in content:
            raise ModelError(
                f"{path.parent}: an already quantized checkpoint, which batchgen does not load; "
                "give the bf16 one."
            )
        built = self.facts.components[component]
        _check_class(path, content, *built.written_by)
        return parse_config(content, built.config, where=str(path))

    def scheduler(self) -> Scheduler:
        """The scheduler's configuration, checked.

        :raises ModelError: it is another scheduler than the engine's, or has impossible values.
        """
        path = self.folder / "scheduler" / "scheduler_config.json"
        content = self._read_once(path, read_json)
        _check_class(path, content, SCHEDULER)
        return parse_config(content, Scheduler, where=str(path))

    def headers(self, component: str) -> dict[Path, dict[str, Any]]:
        """The headers of a component's weight files.

        :raises ModelError: a file is missing or broken.
        """
        files = weight_files(self.folder / component, self.facts.components[component].library)
        return {path: self._read_once(path, read_header) for path in files}

    def tensors(self, component: str) -> dict[str, tuple[int, ...]]:
        """Name → shape of the weights that the engine keeps of a component; see `Checkpoint`."""
        config = self.config(component)
        stored = {
            name: tuple(header[own]["shape"])
            for header in self.headers(component).values()
            for name, own in canonical_names(header, type(config))
            if not is_harmless(name, config)
        }
        held = ((name, config.held(name, shape)) for name, shape in stored.items())
        return {name: shape for name, shape in held if shape is not None}

    def stored_type(self, component: str) -> str:
        """The type of a component's numbers in its files, such as `BF16`; "" where types differ.

        :raises ModelError: a file is missing or broken.
        """
        headers = self.headers(component).values()
        tensors = (entry for header in headers for entry in header.values() if "dtype" in entry)
        types = {entry["dtype"] for entry in tensors} & FLOATS
        return types.pop() if len(types) == 1 else ""

    def _read_once(self, path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        if path not in self.contents:
            self.contents[path] = read(path)
        return self.contents[path]


def _check_class(path: Path, content: dict[str, Any], *accepted: str) -> None:
    """Check the class for which a configuration was written, if it says so.

    :raises ModelError: it is another than the engine builds.
    """
    given = content.get("_class_name") or content.get("architectures")
    names = given if isinstance(given, list) else [given]
    if given is not None and not set(map(str, names)) & set(accepted):
        raise ModelError(
            f"{path}: written for {', '.join(map(str, names))}, but batchgen builds {accepted[0]}. "
            "Choose a model with it."
        )
