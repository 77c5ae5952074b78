"""The velocities of a group: a picture's skipped step goes along the prediction of its computed.

It stands above the forward pass, which computes some pictures' velocities or none: families know
nothing of it. The *velocity* is what the whole transformer predicts for a picture, after
classifier-free guidance. At every step

    measure, where the policy asks for it → decide → compute the pictures that do not skip
    → correct what these skipped before → predict the velocities of the others

Who decides. The policy's decider for a picture is told what the forward pass measured (`probe.py`),
if anything is, and says whether the picture skips the step. The others are computed as a smaller
batch: this is what saves time. After a computed step a decider may learn one of

    error     |v - v̂| / √(T·C)        how far the prediction was off, in units of the noise
    change    |v - v_k| / |v|         how far it moved since the last computed step

|·| is the square root of the sum of squares over tokens and channels. The noise that a picture
begins with has a standard deviation of 1, so that an error means the same with classifier-free
guidance, which enlarges velocities, and without. Where nothing else is measured, the errors are
recorded.

What is guaranteed:

- A picture skips the same steps alone, in any group, and over any number of ranks, up to rounding.
  A number within rounding of a threshold may fall on either side; `Trace` shows where it did.
- All ranks decide alike. Velocities are whole and equal on every rank, and so is what is measured.
- Where no step is skipped it is the plain loop, bit for bit. A computed velocity goes on as it is.
- The device is waited for only where something is decided from what it computed: at each step that
  is measured, and at computed steps from which deciders learn. A skipped step of a policy that
  measures nothing takes one upload of weights and a few sums.
- A group that fails leaves nothing behind: `Velocities` belong to one group.

Not guaranteed: that a correction brings every picture nearer. Under classifier-free guidance with
few computed steps the parabola may miss by more than the prediction did, where the contrast turns
quickly. Over 96 guided pictures of the embedded model with 6 to 10 computed steps of 28 it gained 1
to 5 dB in the mean, and the worst picture between -6 and +13 dB; with 4 it lost 2 dB in the mean.

Legend: B pictures, n of them computed, T image tokens of C channels, N steps, K computed velocities
that are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.policy import COMPUTED, SKIPPED, Policy
from batchgen.engine.cache.selection import Selection
from batchgen.engine.cache.trajectory import Trajectory
from batchgen.engine.device import upload
from batchgen.engine.interface import Trace
from batchgen.manifest import Picture

# How far each picture's signal has moved, [B].
Measure = Callable[[], list[float]]
# Some pictures → their velocities [n, T, C], classifier-free guidance applied.
Compute = Callable[[Selection], Tensor]


class Velocities:
    """The step cache of one group."""

    def __init__(
        self, policy: Policy, pictures: Sequence[Picture], noise: Tensor, sigmas: Sequence[float]
    ) -> None:
        """:param pictures: [B].
        :param noise: the latents before the first step, [B, T, C].
        :param sigmas: [N + 1], the noise levels, falling.
        :raises JobError: a replayed trace does not fit its picture.
        """
        self._policy = policy
        self._deciders = [policy.decider(picture, sigmas) for picture in pictures]
        self._trajectories = [Trajectory(policy.taylor_order, sigmas) for _ in pictures]
        # Each picture's last K computed velocities, latest first, fp32 [B, T, C].
        kept = self._trajectories[0].kept
        self._known = [torch.zeros_like(noise, dtype=torch.float32) for _ in range(kept)]
        # Which pictures skipped each step, [B].
        self._skips: list[list[bool]] = []
        # What was measured at each step, [B]; and on the device what nothing is decided from.
        self._measured: list[list[float]] = []
        self._unread: dict[int, Tensor] = {}

    def step(
        self, step: int, latents: Tensor, measure: Measure, compute: Compute
    ) -> tuple[Tensor, Tensor]:
        """The latents from which a step goes on, and the velocities along which: both [B, T, C].

        Steps come in order, each once.

        :param latents: as the step before left them. The same come back, but for what is corrected.
        :param measure: called where the policy has a signal.
        :param compute: called unless all pictures skip the step.
        """
        assert step == len(self._skips), f"step {step} after {len(self._skips)} steps"
        pictures = len(self._deciders)
        distances = measure() if self._policy.signal else [math.nan] * pictures
        asked = zip(self._deciders, distances, strict=True)
        skips = [decider.before(step, distance) for decider, distance in asked]
        self._skips.append(skips)
        self._measured.append(distances)
        for trajectory, skip in zip(self._trajectories, skips, strict=True):
            if skip:
                trajectory.skip(step)
        predicted = _sum([its.predict(step) for its in self._trajectories], self._known)
        computing = [number for number, skip in enumerate(skips) if not skip]
        if not computing:
            return latents, predicted.to(latents.dtype)
        chosen = Selection(computing, pictures, latents.device)
        velocity = compute(chosen)
        self._judge(step, chosen, velocity.float(), predicted)
        latents = self._correct(step, chosen, latents, velocity.float())
        return latents, chosen.put(predicted.to(velocity.dtype), velocity)

    def traces(self) -> list[Trace]:
        """What each of the B pictures skipped so far, and what was measured at each step."""
        measured = dict(enumerate(self._measured))
        if self._unread:
            read = torch.stack([*self._unread.values()]).tolist()
            measured |= zip(self._unread, read, strict=True)
        return [
            Trace(
                "".join(SKIPPED if skip else COMPUTED for skip in skips),
                tuple(number if math.isfinite(number) else None for number in distances),
            )
            for skips, distances in zip(
                zip(*self._skips, strict=True), zip(*measured.values(), strict=True), strict=True
            )
        ]

    def _judge(self, step: int, chosen: Selection, new: Tensor, predicted: Tensor) -> None:
        """Measure a computed step's error or change, if the policy does not measure otherwise.

        :param new: the velocities of the chosen pictures, fp32 [n, T, C].
        """
        if self._policy.signal:
            return
        if not step and self._policy.learns != "error":
            for number in chosen.numbers if self._policy.learns else ():
                self._deciders[number].after(step, 1.0)  # all of it is new
            return
        distances = self._distances(chosen, new, predicted)
        if self._policy.learns:
            for number, distance in zip(chosen.numbers, distances.tolist(), strict=True):
                if step:
                    self._measured[step][number] = distance
                self._deciders[number].after(step, distance)
        else:
            missing = torch.full((len(self._deciders),), math.nan, device=new.device)
            self._unread[step] = chosen.put(missing, distances)

    def _distances(self, chosen: Selection, new: Tensor, predicted: Tensor) -> Tensor:
        """Errors or changes of the chosen pictures, [n]."""
        if self._policy.learns == "change":
            return _norm(new - chosen.of(self._known[0])) / _norm(new)
        return _norm(new - chosen.of(predicted)) / math.sqrt(new[0].numel())

    def _correct(self, step: int, chosen: Selection, latents: Tensor, new: Tensor) -> Tensor:
        """The latents with what the chosen pictures skipped before corrected; keeps `new`."""
        known = [chosen.of(values) for values in self._known]
        trajectories = [self._trajectories[number] for number in chosen.numbers]
        lacking = [its.correct(step) for its in trajectories]
        if any(map(any, lacking)):
            corrected = chosen.of(latents) + _sum(lacking, [new, *known])
            latents = chosen.put(latents, corrected.to(latents.dtype))
        for place, values in enumerate([new, *known[:-1]]):
            self._known[place] = chosen.put(self._known[place], values)
        for its in trajectories:
            its.compute(step)
        return latents


def _norm(values: Tensor) -> Tensor:
    """The square root of the sum of squares over tokens and channels, [n, T, C] → [n]."""
    norm: Tensor = torch.linalg.vector_norm(values, dim=(1, 2))
    return norm


def _sum(weights: Sequence[Sequence[float]], values: Sequence[Tensor]) -> Tensor:
    """The weighted sum of values [n, T, C], fp32.

    :param weights: [n][as many as there are values].
    """
    shares = upload(weights, values[0].device, torch.float32)[:, :, None, None]
    total = shares[:, 0] * values[0]
    for place, value in enumerate(values[1:], start=1):
        total.addcmul_(shares[:, place], value)
    return total
