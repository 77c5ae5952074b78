"""`model_index.json`: the pipeline of a folder, and whether its components are those of the family.

The engine builds the classes of the family whatever a folder names. So another class is refused:
a Heun scheduler's model would be painted with Euler's steps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from batchgen.errors import ModelError
from batchgen.model.families import FAMILIES, FamilyFacts
from batchgen.model.folder import read_json

# Components that the pipelines of diffusers take for other purposes. Their names are known, and
# nothing of them is loaded.
_UNUSED = {"image_encoder", "feature_extractor"}


def read_index(folder: Path) -> FamilyFacts:
    """The family of a model folder.

    :raises ModelError: the folder has no family, lacks components of it, or has others.
    """
    path = folder / "model_index.json"
    index = read_json(path)
    name = index.get("_class_name")
    facts = FAMILIES.get(name) if isinstance(name, str) else None
    if facts is None:
        known = ", ".join(FAMILIES)
        raise ModelError(f"{path}: pipeline class {name!r} has no family here; known: {known}")
    if problems := _problems(index, str(name), facts):
        raise ModelError("\n".join(f"{path}: {problem}" for problem in problems))
    return facts


def is_distilled(folder: Path) -> bool:
    """Whether a model is distilled for few steps without guidance, as its index says."""
    return bool(read_json(folder / "model_index.json").get("is_distilled", False))


def _problems(index: dict[str, Any], pipeline: str, facts: FamilyFacts) -> list[str]:
    """What is wrong with the components that an index names."""
    needed, problems = facts.classes, []
    unused = _UNUSED | facts.left_out.keys()
    for name, classes in needed.items():
        expected = " or ".join(json.dumps(list(pair)) for pair in classes)
        given = index.get(name)
        if given in (None, [None, None]):
            problems.append(_missing(name, given, expected, facts))
        elif given not in map(list, classes):
            problems.append(
                f"{name} is {json.dumps(given)}, but batchgen paints {pipeline} with {expected} "
                f"only. Choose a model with it, or save this one with it: "
                "pipe.save_pretrained('NEW-FOLDER')"
            )
    problems += [
        f"{name} is {json.dumps(given)}, which {pipeline} does not have and batchgen would leave "
        "out. Remove the line if the pictures are to be made without it"
        for name, given in index.items()
        if isinstance(given, list) and any(given) and name not in {*needed, *unused}
    ]
    return problems


def _missing(name: str, given: Any, expected: str, facts: FamilyFacts) -> str:
    absent = f"{name} is missing" if given is None else f"{name} is null"
    if facts.components[facts.text].class_name == "T5EncoderModel" and name in (
        facts.text,
        facts.tokenizer,
    ):
        return (
            f"{absent}: batchgen does not paint without T5, whose tokens the model was trained "
            f"with. Fetch {facts.text}/ and {facts.tokenizer}/ of the same model, and save the "
            "pipeline with both: pipe.save_pretrained('NEW-FOLDER')"
        )
    return f"{absent}, expected {expected}; fetch the model again"
