"""policy = "multistep": each picture computes the steps that its own error asks for.

Between two computed steps the *velocity* of a picture, what the whole transformer predicts, is
extrapolated over sigma. At the next computed step the prediction is compared with the truth. Their
difference, the *error*, says how far the next step may be, and the steps between are corrected:

- **Predict** v̂(s): the line through the last two computed velocities; before there are two, the
  last one. It is followed no further than the two are apart, as in `residual.py`.
- **Correct** at a computed step: the skipped steps now lie between known velocities. Their
  predictions are replaced by the parabola through the last three computed velocities, the new one
  included, before the step goes on. This needs no evaluation more, as in UniPC
  (https://arxiv.org/abs/2302.04867).
- **Choose** the next step: the distance h in sigma to the last computed one grows or shrinks by

      (tolerance / (error · h))^(1/4)          within 0.3 and 2; before there are three, ^(1/2)

  as step sizes of solvers of differential equations do. The remaining steps are then divided evenly
  into as few stretches as that distance allows, and the last step is always computed: otherwise
  two computed steps would often meet at the end.

A picture whose steps are all computed is the plain Euler loop, bit for bit. A decision depends on
nothing but the picture, so it is the same alone, in any group and over any number of ranks, up to
rounding. A skipped step needs neither embedding nor head, nor does it wait for the device.

This file imports no torch: it says with which weights velocities are summed, and `velocities.py`
sums them. Legend: N steps, s sigma (the noise level, falling), v velocity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.engine.interface import Trace

# Steps to the second computed one, before an error is known.
FIRST_STEPS = 5
# The most that the distance between computed steps shrinks and grows at once.
_SHRINK, _GROW = 0.3, 2.0


@dataclass(frozen=True, slots=True)
class Multistep:
    """The policy: how large the errors of pictures may be."""

    tolerance: float


class Steps:
    """The computed and skipped steps of one picture, in order."""

    def __init__(self, policy: Multistep, sigmas: Sequence[float]) -> None:
        """:param sigmas: [N + 1]."""
        self._tolerance, self._sigmas = policy.tolerance, sigmas
        # Sigmas of the last two computed steps, latest first.
        self._known: list[float] = []
        # Steps skipped since the last computed one.
        self.skipped: list[int] = []
        self._next = 0
        # The error of each step so far: None where it was skipped or nothing was known.
        self._errors: list[float | None] = []
        self._letters = ""

    def computes(self, step: int) -> bool:
        """Whether this step is computed. Asked once a step, in order."""
        computes = step == self._next
        if not computes:
            self.skipped.append(step)
            self._record(SKIPPED, None)
        return computes

    def predict(self, step: int) -> tuple[float, float]:
        """The weights of the last two computed velocities, latest first, that give v̂ of a step."""
        if len(self._known) < 2:
            return 1.0, 0.0
        last, before = self._known
        sigma = max(self._sigmas[step], 2 * last - before)
        slope = (sigma - last) / (last - before)
        return 1 + slope, -slope

    def correct(self, step: int) -> tuple[float, float, float]:
        """What the skipped steps lack now that this step's velocity is known.

        :return: weights of the velocities of this step and of the last two computed ones. Latents
            plus their weighted sum are as if the skipped steps had gone along the parabola.
        """
        nodes = [self._sigmas[step], *self._known]
        weights = [0.0, 0.0, 0.0]
        for skipped in self.skipped:
            change = self._sigmas[skipped + 1] - self._sigmas[skipped]
            for node, share in enumerate(_interpolate(nodes, self._sigmas[skipped])):
                weights[node] += change * share
            for node, share in enumerate(self.predict(skipped), start=1):
                weights[node] -= change * share
        return weights[0], weights[1], weights[2]

    def learn(self, step: int, error: float) -> None:
        """Choose the next computed step after this one.

        :param error: of the prediction for this step, relative. Of the first step, for which there
            is none, it says nothing.
        """
        known = [self._sigmas[step], *self._known]
        self._record(COMPUTED, error if self._known and math.isfinite(error) else None)
        if len(known) == 1:
            self._next = min(step + FIRST_STEPS, max(len(self._sigmas) - 2, 1))
        else:
            height = known[1] - known[0]
            root = 4 if len(known) == 3 else 2
            growth = (self._tolerance / max(error * height, 1e-12)) ** (1 / root)
            growth = min(max(growth, _SHRINK), _GROW) if math.isfinite(growth) else _SHRINK
            self._next = step + self._evenly(step, height * growth)
        self._known, self.skipped = known[:2], []

    def trace(self) -> Trace:
        """What was skipped so far, and the errors."""
        return Trace(self._letters, tuple(self._errors))

    def _record(self, letter: str, error: float | None) -> None:
        self._letters += letter
        self._errors.append(error)

    def _evenly(self, step: int, height: float) -> int:
        """How many steps on the next computed one is, no further than `height` in sigma."""
        least = self._sigmas[step] - height * (1 + 1e-6)
        reached = sum(sigma >= least for sigma in self._sigmas[step + 1 : -1])
        left = len(self._sigmas) - 2 - step
        stretches = math.ceil(left / max(reached, 1))
        return math.ceil(left / max(stretches, 1)) or 1


def _interpolate(nodes: Sequence[float], sigma: float) -> list[float]:
    """Lagrange's weights: what each node's value counts at `sigma`."""
    return [
        math.prod((sigma - other) / (node - other) for other in nodes if other != node)
        for node in nodes
    ]
