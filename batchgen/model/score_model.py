"""A model that scores pictures, checked and identified without torch.

Its `config.json` says what it is, and so what is recorded:

    CLIPModel, SiglipModel       how well picture and prompt agree. PickScore is a CLIPModel
    …ForImageClassification      the labels of the picture and their probabilities; a model of one
                                 output gives a number in their place

The folder is one of transformers: the model's configuration and weights, `preprocessor_config.json`
and, for prompts, a tokenizer. `engine/score.py` computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from batchgen.errors import ModelError, shell_command
from batchgen.model.folder import LOADED, component_files, expand_home, read_json, weight_files
from batchgen.model.locate import HUB_ID, NotFetched, fetch
from batchgen.model.weights import digest, kind_of_file, read_header

SIMILARITY = ("CLIPModel", "SiglipModel")
CLASSIFIERS = tuple(
    f"{name}ForImageClassification"
    for name in (
        *("Beit", "CLIP", "ConvNext", "ConvNextV2", "DeiT"),
        *("Dinov2", "Siglip", "Swin", "Swinv2", "ViT"),
    )
)
# Files of which a folder has to hold one, and what they are for.
_PICTURES = ("preprocessor_config.json", "processor_config.json")
_WORDS = ("tokenizer.json", "spiece.model", "vocab.json")
# Px of a side, where the configuration does not say.
_SIDE_PX = 224
_ACCEPTED = (
    "score.model takes a folder of transformers (it holds config.json) or a hub id such as "
    '"org/name"'
)

Reading = Literal["similarity", "one label", "labels", "number"]
"""What the model's outputs are: how well picture and prompt agree; probabilities of labels of which
one is right, or of labels that exclude nothing; a number."""


@dataclass(frozen=True, slots=True)
class ScoreModel:
    """A model that scores pictures, on this machine's disk."""

    folder: Path
    # Its class in transformers.
    class_name: str
    reads: Reading
    # File → digest.
    identity: dict[str, str]
    # How many numbers its weights have.
    parameters: int
    # Px of the square that it sees of a picture.
    side_px: int


def resolve_score_model(given: str) -> ScoreModel:
    """Find a scorer, fetch it if it is on the hub, check its files and digest them.

    :param given: `score.model`.
    :raises ModelError: there is none, it is incomplete or damaged, or of a kind that batchgen
        cannot score with.
    """
    try:
        folder = _locate(given)
        return _resolve(folder)
    except OSError as error:
        where = error.filename or given
        raise ModelError(f"{where}: cannot be read: {error.strerror or error}.") from None


def _resolve(folder: Path) -> ScoreModel:
    config = read_json(folder / "config.json")
    class_name = _class_of(folder / "config.json", config)
    reads = _reading(folder / "config.json", config, class_name)
    _need(folder, _PICTURES, "how a picture is prepared for it")
    if reads == "similarity":
        _need(folder, _WORDS, "its tokenizer")
    headers = [read_header(path) for path in weight_files(folder, "transformers")]
    shapes = {
        name: tuple(tensor["shape"])
        for header in headers
        for name, tensor in header.items()
        if name != "__metadata__"
    }
    _check_head(folder, shapes, class_name, reads, len(labels_of(config)))
    vision = config.get("vision_config")
    side = {**config, **(vision if isinstance(vision, dict) else {})}.get("image_size", _SIDE_PX)
    return ScoreModel(
        folder,
        class_name,
        reads,
        {path.name: digest(path) for path in sorted(component_files(folder))},
        sum(map(math.prod, shapes.values())),
        side if isinstance(side, int) else _SIDE_PX,
    )


def labels_of(config: dict[str, Any]) -> list[str]:
    """A classifier's labels, in the order of its outputs, as transformers reads them."""
    named = config.get("id2label")
    if isinstance(named, dict) and named:
        return [str(named[key]) for key in sorted(named, key=int)]
    return [f"LABEL_{number}" for number in range(int(config.get("num_labels", 2)))]


def _locate(given: str) -> Path:
    """The folder of a scorer, fetched if it is on the hub. A folder here goes before the hub.

    :raises ModelError: there is none.
    """
    path, asked = expand_home(given), f"score.model = {given!r}"
    if path.is_dir():
        if not (path / "config.json").exists():
            raise ModelError(f"{path}: holds no config.json. {_ACCEPTED}.")
        return path.resolve()
    if path.exists():
        raise ModelError(f"{asked}: {kind_of_file(path)}. {_ACCEPTED}.")
    if not HUB_ID.fullmatch(given):
        raise ModelError(f"{asked}: no such folder. {_ACCEPTED}.")
    try:
        return fetch(given, None, "config.json", lambda _: list(LOADED))
    except NotFetched as error:
        elsewhere = shell_command("hf", "download", given, "--local-dir", "FOLDER")
        raise ModelError(
            f"{asked}: no such folder, and the hub did not give it: {error}\n{_ACCEPTED}. Where "
            f"there is no network, fetch it elsewhere: {elsewhere}, then --set score.model=FOLDER"
        ) from None


def _class_of(path: Path, config: dict[str, Any]) -> str:
    """The class that a configuration was written for.

    :raises ModelError: it is none that pictures are scored with.
    """
    given = config.get("architectures")
    names = given if isinstance(given, list) else []
    known = [name for name in names if name in (*SIMILARITY, *CLASSIFIERS)]
    if known:
        return str(known[0])
    told = ", ".join(map(str, names)) or f"model_type {config.get('model_type')!r}"
    raise ModelError(
        f"{path}: of {told}, with which batchgen cannot score pictures. It can with "
        f"{', '.join(SIMILARITY)} (how well picture and prompt agree; PickScore is a CLIPModel) "
        f"and {', '.join(CLASSIFIERS)} (labels)."
    )


def _reading(path: Path, config: dict[str, Any], class_name: str) -> Reading:
    """What the model's outputs are.

    :raises ModelError: several numbers, or labels that are not named by whole numbers.
    """
    if class_name in SIMILARITY:
        return "similarity"
    try:
        outputs = len(labels_of(config))
    except (TypeError, ValueError):
        raise ModelError(f"{path}: id2label: expected whole numbers → labels.") from None
    problem = config.get("problem_type")
    if outputs == 1:
        return "number"
    if problem == "regression":
        raise ModelError(
            f"{path}: a regression with {outputs} outputs; a scorer gives one number, or labels."
        )
    return "labels" if problem == "multi_label_classification" else "one label"


def _need(folder: Path, names: tuple[str, ...], what: str) -> None:
    if not any((folder / name).is_file() for name in names):
        raise ModelError(
            f"{folder}: {' or '.join(names)} is missing, which says {what}. Fetch the model again; "
            "where its author publishes it apart (PickScore), put the files of that model here."
        )


def _check_head(
    folder: Path, shapes: dict[str, tuple[int, ...]], class_name: str, reads: Reading, outputs: int
) -> None:
    """Check that the weights hold what makes the scores. The engine checks all the others.

    :raises ModelError: they do not; transformers would fill it with random numbers.
    """
    if reads == "similarity":
        if "logit_scale" not in shapes:
            raise ModelError(
                f"{folder}: the weights hold no logit_scale, so they are not of a {class_name}."
            )
        return
    heads = [shape for name, shape in shapes.items() if name.endswith("classifier.weight")]
    if not heads:
        raise ModelError(
            f"{folder}: the weights hold no classifier.weight, so they are not of a {class_name} "
            "that was trained to classify."
        )
    if heads[0][0] != outputs:
        raise ModelError(
            f"{folder}: config.json names {outputs} labels, and the weights have {heads[0][0]}: "
            "they are of different models. Fetch both again."
        )
