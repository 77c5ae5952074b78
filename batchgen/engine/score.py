"""[score]: what a scorer says about pictures that are made.

It computes in fp32 on every device, so that scores of different machines can be compared; beside
the pictures it takes no time to speak of. Pictures are prepared by Pillow and numpy on the host,
whatever else is installed.

A *similarity* is the model's own logit of a picture and its prompt: 100 times the cosine of their
embeddings for CLIP and PickScore, about as much for SigLIP, whose sigmoid is a probability. Prompts
are cut after as many tokens as the model reads: 77 of CLIP, 64 of SigLIP.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import transformers
from PIL import Image
from torch import Tensor

from batchgen.engine.device import Device
from batchgen.engine.families.loading import load_module, load_tokenizer, tokenize
from batchgen.engine.interface import Scored
from batchgen.engine.quiet_imports import without_lines
from batchgen.engine.sizes import SCORED_AT_ONCE
from batchgen.errors import ModelError
from batchgen.model import ScoreModel

# Labels of a picture that are kept, the most probable ones.
LABELS = 10
_NOISE = {"transformers.utils.import_utils": "requires torchvision"}


class Scorer:
    """A model that scores pictures, on a device."""

    def __init__(self, scorer: ScoreModel, device: Device) -> None:
        """:raises ModelError: it does not load, or weights are missing."""
        kind = getattr(transformers, scorer.class_name)
        full = replace(device, dtype=torch.float32)
        self._model: Any = load_module(scorer.folder, "", kind, full).to(device.kind)
        self._reads, self._device = scorer.reads, device.kind
        self._prepare = _load_image_processor(scorer)
        self._tokens = load_tokenizer(scorer.folder, "") if scorer.reads == "similarity" else None

    @torch.inference_mode()
    def __call__(
        self, pixels: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]
    ) -> list[Scored]:
        """Score pictures [H, W, 3] with their prompts, some at a time, in their order."""
        starts = range(0, len(pixels), SCORED_AT_ONCE)
        return [
            one
            for start in starts
            for one in self._score(
                pixels[start : start + SCORED_AT_ONCE], prompts[start : start + SCORED_AT_ONCE]
            )
        ]

    def _score(
        self, pixels: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]
    ) -> Iterator[Scored]:
        images = [Image.fromarray(one, "RGB") for one in pixels]
        inputs = dict(self._prepare(images=images, return_tensors="pt")) | self._text(prompts)
        outputs = self._model(**{name: one.to(self._device) for name, one in inputs.items()})
        if self._reads == "similarity":
            yield from map(_number, outputs.logits_per_image.diagonal().tolist())
            return
        logits: Tensor = outputs.logits
        if self._reads == "number":
            yield from map(_number, logits[:, 0].tolist())
            return
        probabilities = logits.sigmoid() if self._reads == "labels" else logits.softmax(dim=1)
        names = self._model.config.id2label
        yield from (_labelled(row, names) for row in probabilities.cpu())

    def _text(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Token ids, and what else the tokenizer says that the model reads."""
        if self._tokens is None:
            return {}
        length = self._model.config.text_config.max_position_embeddings
        tokens = tokenize(self._tokens, prompts, length)
        return {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}


def _load_image_processor(scorer: ScoreModel) -> Any:
    try:
        with without_lines(_NOISE):
            return transformers.AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                scorer.folder, backend="pil", local_files_only=True, trust_remote_code=False
            )
    except Exception as error:  # the libraries raise whatever they like
        raise ModelError(f"{scorer.folder}: how pictures are prepared: {error}") from error


def _number(value: float) -> Scored:
    return Scored(value if math.isfinite(value) else None)


def _labelled(probabilities: Tensor, names: dict[int, str]) -> Scored:
    """The most probable labels [n] of a picture; of equal ones, the first of the model goes first.

    :param names: by number.
    """
    if not bool(probabilities.isfinite().all()):
        return Scored(None)
    order = probabilities.argsort(descending=True, stable=True)[:LABELS].tolist()
    kept = [float(probabilities[number]) for number in order]
    return Scored(kept[0], tuple(names[number] for number in order), tuple(kept))
