"""The velocities of a group that were computed last, and their sums for `multistep.py`.

It stands above the forward pass, which computes some pictures' velocities or none: families and
ranks know nothing of it. Velocities are whole and equal on every rank, so every rank decides from
the same bits, and no rank is told. The device is waited for at computed steps only.

Legend: B pictures, n of them computed, T image tokens of C channels, N steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.multistep import Multistep, Steps
from batchgen.engine.cache.selection import Selection
from batchgen.engine.interface import Trace

# Some pictures → their velocities [n, T, C], classifier-free guidance applied.
Compute = Callable[[Selection], Tensor]


class Velocities:
    """The multistep cache of one group."""

    def __init__(self, policy: Multistep, noise: Tensor, sigmas: Sequence[float]) -> None:
        """:param noise: the latents before the first step, [B, T, C].
        :param sigmas: [N + 1], the noise levels, falling.
        """
        self._steps = [Steps(policy, sigmas) for _ in noise]
        # Of each picture's last two computed steps, latest first.
        self._known = [torch.zeros_like(noise, dtype=torch.float32) for _ in range(2)]

    def step(self, step: int, latents: Tensor, compute: Compute) -> tuple[Tensor, Tensor]:
        """The latents from which a step goes on, and the velocities along which: both [B, T, C].

        Steps come in order, each once.

        :param latents: as the step before left them. The same come back, but for what is corrected.
        :param compute: called unless all pictures skip the step.
        """
        computing = [number for number, its in enumerate(self._steps) if its.computes(step)]
        chosen = Selection(computing, len(self._steps), latents.device)
        predicted = _sum([its.predict(step) for its in self._steps], self._known)
        if not computing:
            return latents, predicted
        velocity = compute(chosen)
        new = velocity.float()
        errors = _relative(new - chosen.of(predicted), new)
        steps = [self._steps[number] for number in computing]
        if any(its.skipped for its in steps):
            weights = [its.correct(step) for its in steps]
            change = _sum(weights, [new, *(chosen.of(known) for known in self._known)])
            latents = chosen.put(latents, (chosen.of(latents) + change).to(latents.dtype))
        for older, newer in ((1, chosen.of(self._known[0])), (0, new)):
            self._known[older] = chosen.put(self._known[older], newer)
        for its, error in zip(steps, errors, strict=True):
            its.learn(step, error)
        return latents, chosen.put(predicted, new)

    def traces(self) -> list[Trace]:
        """What each of the B pictures skipped, and the errors of its predictions."""
        return [its.trace() for its in self._steps]


def _sum(weights: Sequence[Sequence[float]], values: Sequence[Tensor]) -> Tensor:
    """The weighted sum of K values [n, T, C], fp32.

    :param weights: [n][K].
    """
    total = torch.zeros_like(values[0])
    for column, value in zip(zip(*weights, strict=True), values, strict=True):
        shares = torch.tensor(column, dtype=torch.float32, device=value.device)
        total = total + shares[:, None, None] * value
    return total


def _relative(difference: Tensor, of: Tensor) -> list[float]:
    """The norm of a difference [n, T, C] over the norm of that of which it is one, [n]."""
    sums = torch.stack([difference.square().sum((1, 2)), of.square().sum((1, 2))]).cpu().double()
    errors: list[float] = (sums[0] / sums[1]).sqrt().tolist()
    return errors
