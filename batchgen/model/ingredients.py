"""What pictures are made with: the model and its LoRAs, with names, digests and licences."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from batchgen.checked_json import digest
from batchgen.model.checkpoint import TINY, Checkpoint
from batchgen.model.folder import expand_home
from batchgen.model.licences import licence_beside, licence_of_header
from batchgen.model.weights import read_header
from batchgen.settings import Lora, Model, Section

# A file or folder in the hub's cache.
_IN_CACHE = re.compile(r".*/models--([^/]+?)--([^/]+)/snapshots/([^/]+)(/.*)?", re.DOTALL)


class Ingredient(Section):
    """A model or a LoRA."""

    kind: Literal["model", "LoRA"]
    # `ORG/NAME@COMMIT` of the hub, with the file in it; else the name of the folder or file alone,
    # for its path is nobody's business.
    name: str
    # Of a model; "" for a LoRA.
    family: str = ""
    # Of a LoRA, its file's; of a model, of the digests of all files that loading reads.
    digest: str
    # Of a LoRA: 1 as trained.
    strength: float = 1.0
    # As its files tell it; "" if they do not.
    license: str = ""


def list_ingredients(model: Model, checkpoint: Checkpoint) -> tuple[Ingredient, ...]:
    """The model of a located job, and its LoRAs in their order."""
    own = {
        name: value
        for name, value in checkpoint.identity.items()
        if not name.startswith(("lora/", "trace/"))
    }
    folder = checkpoint.folder
    first = Ingredient(
        kind="model",
        name="tiny" if folder == TINY else public_name(folder),
        family=checkpoint.family,
        digest=f"sha256:{digest(own)}",
        license="apache-2.0" if folder == TINY else licence_beside(folder),
    )
    loras = [_lora(number, lora, checkpoint) for number, lora in enumerate(model.lora)]
    return (first, *loras)


def public_name(path: Path) -> str:
    """How a file or folder is called where its path means nothing."""
    if found := _IN_CACHE.fullmatch(path.as_posix()):
        owner, name, commit, inside = found.groups()
        return f"{owner}/{name}@{commit}{inside or ''}"
    return path.name


def _lora(number: int, lora: Lora, checkpoint: Checkpoint) -> Ingredient:
    file = expand_home(lora.path)
    metadata = read_header(file).get("__metadata__", {})
    return Ingredient(
        kind="LoRA",
        name=public_name(file),
        digest=checkpoint.identity[f"lora/{number}/{file.name}"],
        strength=lora.scale,
        license=licence_of_header(metadata) or licence_beside(file.parent),
    )
