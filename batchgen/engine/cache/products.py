"""cache.record: sigmas and inner products of a picture's velocities, to find schedules from.

Every prediction and correction of `trajectory.py` is a weighted sum of velocities. The size of its
error is therefore known for any choice of computed steps from the velocities' inner products alone:
N·(N+1)/2 numbers of a picture, where the velocities themselves take a megabyte a step at 1024×1024.

Legend: B pictures, N steps, T image tokens of C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from batchgen.engine.interface import Trace


class Products:
    """What is recorded of one group, whose every step is computed."""

    def __init__(self, sigmas: Sequence[float]) -> None:
        """:param sigmas: [N + 1], falling."""
        self._sigmas = tuple(sigmas)
        # [N] of fp32 [B, T·C].
        self._velocities: list[Tensor] = []

    def add(self, velocity: Tensor) -> None:
        """Keep the velocities of a step, [B, T, C]; steps come in order."""
        self._velocities.append(velocity.flatten(1).float())

    def traces(self) -> list[Trace]:
        """Each picture's sigmas [N + 1] and products [N·(N+1)/2], in one row.

        The products are of the steps (0, 0), (1, 0), (1, 1), (2, 0), …, divided by T·C: errors
        are then root mean squares, as those of `velocities.py`. They are summed in fp64, because
        errors are small differences of large products.
        """
        steps = len(self._velocities)
        rows, columns = torch.tril_indices(steps, steps).unbind()
        traces = []
        for picture in range(len(self._velocities[0])):
            every = torch.stack([step[picture] for step in self._velocities]).double()
            products = (every @ every.T / every.shape[1]).cpu()[rows, columns]
            traces.append(Trace("", (), (*self._sigmas, *products.tolist())))
        return traces
