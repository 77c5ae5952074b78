"""How a picture's skipped steps are predicted and corrected: weights of its computed velocities.

- **Predict** v̂(s), the velocity at a skipped step: Newton's polynomial over sigma through the last
  computed velocities k, k-1, …. With order 1

      v̂(s) = v_k + (v_k - v_{k-1}) / (s_k - s_{k-1}) · (s - s_k)          s: sigma, the noise level

  A picture with too few computed steps has a lower order until it has enough. The variable is sigma
  and not the number of the step, because schedules space their steps unevenly. A trend is followed
  for as long as it was watched: s goes no further beyond s_k than s_k lies beyond s_{k-1}.
- **Correct** at the next computed step: the skipped steps now lie between known velocities. Their
  predictions are replaced by the parabola through the last three computed velocities, the new one
  included, before the step goes on; by the line while two are known. This needs no evaluation more,
  as in UniPC (https://arxiv.org/abs/2302.04867).

TaylorSeer showed that cached values should follow their trend: https://arxiv.org/abs/2503.06923.
This file imports no torch: `velocities.py` sums the velocities with these weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# Computed velocities that a correction looks back at, beside the new one.
CORRECTED_WITH = 2


class Trajectory:
    """The computed and skipped steps of one picture, in order."""

    def __init__(self, order: int, sigmas: Sequence[float]) -> None:
        """:param order: of the prediction; 0 repeats the last computed velocity.
        :param sigmas: [N + 1], falling.
        """
        self._order, self._sigmas = order, sigmas
        # K, how many computed velocities are to be kept.
        self.kept = max(order + 1, CORRECTED_WITH)
        # The sigmas of the last K computed steps, latest first.
        self._known: list[float] = []
        # Steps skipped since the last computed one.
        self._skipped: list[int] = []

    def skip(self, step: int) -> None:
        """This step is skipped."""
        assert self._known, "the first step has nothing to go on from"
        self._skipped.append(step)

    def compute(self, step: int) -> None:
        """This step's velocity is known now, and what was skipped before is done with."""
        self._known = [self._sigmas[step], *self._known][: self.kept]
        self._skipped = []

    def predict(self, step: int) -> list[float]:
        """The weights of the last computed velocities, latest first, that give v̂ of a step, [K]."""
        nodes, sigma = self._known[: self._order + 1], self._sigmas[step]
        if len(self._known) > 1:
            sigma = max(sigma, 2 * self._known[0] - self._known[1])
        return _padded(_interpolate(nodes, sigma), self.kept)

    def correct(self, step: int) -> list[float]:
        """What the skipped steps lack now that this step's velocity is known.

        :return: weights of the velocities of this step and of the last computed ones, [1 + K].
            Latents plus their weighted sum are as if the skipped steps had gone along the parabola.
        """
        nodes = [self._sigmas[step], *self._known[:CORRECTED_WITH]]
        total = [0.0] * (1 + self.kept)
        for skipped in self._skipped:
            change = self._sigmas[skipped + 1] - self._sigmas[skipped]
            true = _padded(_interpolate(nodes, self._sigmas[skipped]), len(total))
            taken = [0.0, *self.predict(skipped)]
            total = [t + change * (a - b) for t, a, b in zip(total, true, taken, strict=True)]
        return total


def _interpolate(nodes: Sequence[float], sigma: float) -> list[float]:
    """Lagrange's weights: what each node's value counts at `sigma`."""
    return [
        math.prod((sigma - other) / (node - other) for other in nodes if other != node)
        for node in nodes
    ]


def _padded(weights: list[float], length: int) -> list[float]:
    return weights + [0.0] * (length - len(weights))
