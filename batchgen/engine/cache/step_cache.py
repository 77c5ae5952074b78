"""Step caching: leave out the blocks where they would do to a picture what they did before, each picture by itself.

    embed → blocks up to the probe point → measure → the other blocks, for the pictures that need them → head

Neighbouring steps do nearly the same to the image tokens: what the blocks after the probe point add, their residual, changes
slowly. At each step a policy (`policies/`) is told, for every picture b,

    d_b = Σ|x_b - ref_b| / Σ|ref_b|        x: the signal at the probe point, ref: the same at an earlier step, sums over image tokens

and says whether the picture is a *hit*, which takes the stored residual, or a *miss*, which goes through the remaining blocks. Misses
go alone, as a smaller batch; that is where the time is saved. Where one mean over the batch decides for all its pictures, a picture
depends on its neighbours; where every rank decides by its own part of the tokens, ranks disagree and hang. Here a picture skips the
same steps alone, in any group and over any number of ranks, up to rounding.

- Selection of one picture (its classifier-free branch) share a decision: both sums run over all its rows.
- Sums are fp32, added over the ranks, and rank 0's are broadcast: every rank decides from the same bits. One wait for the device a step.
- A miss returns what the blocks computed, never probe point + residual, and where all miss the batch is the undivided one: a threshold
  of 0 is bit for bit the engine without a cache.
- With `taylor_order` 1 or 2 the residual is extrapolated over sigma from the picture's own last computed steps (`residual.py`).

A `StepCache` is one group's: born with it, gone with it. Nothing is left behind by a group that failed.
Not promised: that a distance within rounding of the threshold falls alike in groups of other sizes; `Trace` shows where it did not.

Legend: B pictures; R rows of a call, each owned by one picture; T image tokens of this rank, D width, N steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor

from batchgen.engine.cache.policy import COMPUTED, SKIPPED, Policy
from batchgen.engine.cache.residual import Residual
from batchgen.engine.cache.selection import Selection
from batchgen.engine.interface import Trace
from batchgen.engine.parallel.collectives import Ranks


class Tokens(Protocol):
    """What flows through the blocks: image tokens and whatever goes along with them."""

    @property
    def image(self) -> Tensor:
        """[R, T, D]."""

    def rows(self, index: Tensor) -> Self:
        """These rows, in this order."""


AnyTokens = TypeVar("AnyTokens", bound=Tokens)


class StepCache:
    """One group's way past the blocks."""

    def __init__(
        self,
        policy: Policy,
        blocks: int,
        keys: Sequence[int],
        owner: Sequence[int],
        sigmas: Sequence[float],
        ranks: Ranks,
    ) -> None:
        """:param blocks: how many the transformer has.
        :param keys: [B], the pictures'.
        :param owner: [R], which of the B pictures a row belongs to.
        :param sigmas: [N + 1], the noise levels, falling.
        :param ranks: those that share the pictures' tokens.
        :raises JobError: a replayed trace does not fit a picture.
        """
        self._policy, self._blocks, self._owner, self._ranks = policy, blocks, owner, ranks
        self._deciders = [policy.decider(key, len(sigmas) - 1) for key in keys]
        self._residual = Residual(policy.taylor_order, sigmas, len(owner))
        self._reference: Tensor | None = None  # [R, T, D]
        self._steps: list[
            tuple[list[bool], list[float]]
        ] = []  # of each step so far: hits [B], distances [B]

    def step(
        self,
        step: int,
        tokens: AnyTokens,
        run: Callable[[int, int, AnyTokens, Tensor | None], AnyTokens],
        modulated: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The image tokens [R, T, D] after all blocks, or what stands for them. Steps come in order, each once.

        :param tokens: as embedded, all rows.
        :param run: (first, last, tokens, rows) → the tokens after blocks first … last - 1. `tokens` has only the rows `rows` already;
            None: all rows. It must not change its input in place.
        :param modulated: embedded image tokens → the first block's modulated input; needed where that is the policy's signal.
        """
        assert step == len(self._steps), f"step {step} after {len(self._steps)} steps"
        device = tokens.image.device
        probed = (
            run(0, self._policy.probe_blocks, tokens, None) if self._policy.probe_blocks else tokens
        )
        signal = self._signal(tokens.image, probed.image, modulated)
        distances = self._measure(
            signal, self._reference, Selection(range(len(self._owner)), len(self._owner), device)
        )
        hits = [
            decider.before(step, distance)
            for decider, distance in zip(self._deciders, distances, strict=True)
        ]
        reusing, computing = self._rows(hits, device), self._rows([not hit for hit in hits], device)
        assert step or not reusing.numbers, "the first step has nothing to reuse"

        image = probed.image
        if reusing.numbers:
            reused = reusing.of(image) + self._residual.at(step, reusing)
            image = reusing.put(image, reused.to(image.dtype))
        if computing.numbers:
            chosen = probed if computing.index is None else probed.rows(computing.index)
            computed = run(self._policy.probe_blocks, self._blocks, chosen, computing.index).image
            image = computing.put(image, computed)
            distances = self._renew(step, computing, computed - chosen.image, distances)
        self._refer(signal, computing)
        self._steps.append((hits, distances))
        return image

    def traces(self) -> list[Trace]:
        """[B], of the steps so far."""
        return [
            Trace(
                "".join(SKIPPED if hits[picture] else COMPUTED for hits, _ in self._steps),
                tuple(
                    distances[picture] if math.isfinite(distances[picture]) else None
                    for _, distances in self._steps
                ),
            )
            for picture in range(len(self._deciders))
        ]

    def _rows(self, which: Sequence[bool], device: torch.device) -> Selection:
        """The rows of these of the B pictures."""
        return Selection(
            [row for row, picture in enumerate(self._owner) if which[picture]],
            len(self._owner),
            device,
        )

    def _signal(
        self, embedded: Tensor, probed: Tensor, modulated: Callable[[Tensor], Tensor] | None
    ) -> Tensor | None:
        if self._policy.signal == "residual":
            return probed - embedded
        if self._policy.signal == "modulated":
            assert modulated is not None, "the policy's signal is the modulated input"
            return modulated(embedded)
        return None

    def _measure(
        self, values: Tensor | None, reference: Tensor | None, rows: Selection
    ) -> list[float]:
        """[B]: the pictures' distances over these rows [rows, T, D]; NaN where there are no rows, or nothing to compare with."""
        pictures = len(self._deciders)
        if values is None or reference is None:
            return [math.nan] * pictures
        change = (
            values.to(torch.float32, copy=True).sub_(reference).abs_()
        )  # in place: of a large picture a copy is a gigabyte
        sums = torch.stack(
            [change.sum((1, 2)), reference.abs().sum((1, 2), dtype=torch.float32)]
        )  # [2, rows]
        sums = self._ranks.agree(self._ranks.sum(sums)).cpu().double()
        owner = torch.tensor([self._owner[row] for row in rows.numbers])
        changes, sizes = sums.new_zeros(2, pictures).index_add(1, owner, sums)
        distances: list[float] = (changes / sizes).tolist()
        return distances

    def _renew(
        self, step: int, rows: Selection, residual: Tensor, distances: list[float]
    ) -> list[float]:
        """Keep what was computed, and let policies that judge it do so; the step's distances [B]."""
        if self._policy.judges:
            distances = self._measure(residual, self._residual.last(rows), rows)
            for picture in sorted({self._owner[row] for row in rows.numbers}):
                self._deciders[picture].after(step, distances[picture])
        self._residual.renew(step, rows, residual)
        return distances

    def _refer(self, signal: Tensor | None, computed: Selection) -> None:
        """What the next step's signal is compared with."""
        if signal is None or self._reference is None or self._policy.reference == "previous":
            self._reference = signal
        elif computed.numbers:
            self._reference = computed.put(self._reference, computed.of(signal))
