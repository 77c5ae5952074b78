"""Which of a picture's guidance values its model reads.

A picture has `guidance`, `true_cfg` and a negative prompt, and no model reads all three always:

    family                   input of the model     scale of classifier-free guidance
    FLUX.1 dev, Krea         guidance               true_cfg, where there is a negative prompt
    FLUX.1 schnell           none                   true_cfg, where there is a negative prompt
    Chroma                   none                   guidance
    ERNIE-Image              none                   guidance
    FLUX.2 dev               guidance               true_cfg, where there is a negative prompt
    FLUX.2 klein             none                   true_cfg, where there is a negative prompt
    FLUX.2 klein, base       none                   guidance
    Qwen-Image               none                   guidance
    Stable Diffusion 3       none                   guidance
    Z-Image, Turbo           none                   guidance + 1

Classifier-free guidance acts where its scale is over 1, and only there a negative prompt is read.
The scales 0 and 1 ask for none. A scale between them asks for something that does not happen.

`guidance` is always the number that the model's own pipeline in diffusers calls so. Z-Image's is
one less than the scale: its velocity is positive + guidance · (positive - negative), so that it
acts over 0. Z-Image-Turbo is used with 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Guidance:
    """How a model is guided."""

    # Whether `guidance` is an input of the model.
    embedded: bool
    # Whether `guidance` is the scale of classifier-free guidance.
    contrasts: bool
    # The `guidance` at and below which a picture has no classifier-free guidance.
    unguided: float = 1.0

    @property
    def none(self) -> dict[str, Any]:
        """The value of each that asks for nothing."""
        return {
            "guidance": self.unguided if self.contrasts else 0.0,
            "true_cfg": 1.0,
            "negative_prompt": "",
        }

    def contrasted(self, guidance: Floats, true_cfg: Floats, negative: Flags) -> Flags:
        """Which of R rows have classifier-free guidance.

        :param guidance: of R rows, as `true_cfg`.
        :param negative: whether the rows have a negative prompt.
        """
        return guidance > self.unguided if self.contrasts else (true_cfg > 1) & negative

    @property
    def contrast(self) -> str:
        """When classifier-free guidance acts, in words that follow "where"."""
        if self.contrasts:
            return f"guidance is over {self.unguided:g}"
        return "true_cfg is over 1 and there is a negative prompt"

    def idle(self, guidance: Floats, true_cfg: Floats, negative: Flags) -> dict[str, Flags]:
        """Where `guidance`, `true_cfg` and `negative_prompt` ask for something and change nothing.

        :param guidance: of R rows, as `true_cfg`.
        :param negative: whether the rows have a negative prompt.
        """
        contrasted = self.contrasted(guidance, true_cfg, negative)
        if self.contrasts:
            idle = {"guidance": _asks(guidance) & ~contrasted, "true_cfg": _asks(true_cfg)}
        else:
            unread = np.zeros_like(negative) if self.embedded else guidance != 0
            idle = {"guidance": unread, "true_cfg": _asks(true_cfg) & ~contrasted}
        return idle | {"negative_prompt": negative & ~contrasted}

    def condition(self, name: str) -> str:
        """When the value of a name acts, in words that follow a colon."""
        if name == "guidance":
            acts = f"it acts over {self.unguided:g}"
            return acts if self.contrasts else "this model has no guidance embedding"
        if name == "negative_prompt":
            guided = f"guidance is over {self.unguided:g}"
            return f"it acts where {guided if self.contrasts else 'true_cfg is over 1'}"
        if self.contrasts:
            return "guidance is the only scale of this model"
        return "it acts over 1, and where there is a negative prompt"


def _asks(scale: Floats) -> Flags:
    """Where a scale of classifier-free guidance is not one of those that ask for none."""
    asks: Flags = (scale != 0) & (scale != 1)
    return asks
