"""Step caching: a picture skips most blocks of a denoising step where they would repeat themselves.

    embed → probe blocks → measure → the other blocks, for the pictures that need them → head

What is reused. Neighbouring steps do nearly the same to the image tokens, so what the blocks after
the probe blocks add, their *residual*, changes slowly. A picture that skips these blocks gets its
stored residual instead. With `taylor_order` 1 or 2 the residual is extrapolated over sigma from the
picture's own last computed steps (`residual.py`).

What is measured. A *signal* x after the probe blocks is compared with the same signal ref of an
earlier step. For every picture b, the distance is

    d_b = Σ|x_b - ref_b| / Σ|ref_b|        sums over the picture's rows, image tokens and width

Who decides. At every step the policy's decider for picture b is told d_b and says whether b is a
*hit*, which reuses its residual, or a *miss*, which goes through the remaining blocks. The misses
go on as a smaller batch: this is what saves time. The two rows of a picture with classifier-free
guidance share one distance and one decision.

What is guaranteed:

- A picture skips the same steps alone, in any group, and over any number of ranks, up to rounding.
  A distance within rounding of the threshold may fall on either side; `Trace` shows where it did.
- All ranks decide alike. The fp32 sums are added over the ranks, and rank 0's result is broadcast,
  so every rank decides from the same bits. The device is waited for once a step.
- A threshold of 0 gives the same bits as no cache. A miss returns what the blocks computed, never
  a sum with a residual, and a step in which all pictures miss runs the undivided batch.
- A group that fails leaves nothing behind: a `StepCache` belongs to one group.

Legend: B pictures; R rows of a batch, each belonging to one picture; n selected rows; T image
tokens of this rank; D width; N steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from batchgen.engine.cache.policy import COMPUTED, SKIPPED, Policy
from batchgen.engine.cache.residual import Residual
from batchgen.engine.cache.selection import Selection
from batchgen.engine.families.family import Tokens
from batchgen.engine.interface import Trace
from batchgen.engine.parallel.collectives import Ranks

# (first, last, tokens, rows) → the tokens after blocks first … last - 1. `tokens` has only the rows
# `rows`; None stands for all rows. The tokens must not be changed in place.
RunBlocks = Callable[[int, int, Tokens, Tensor | None], Tokens]


class StepCache:
    """The step cache of one group."""

    def __init__(
        self,
        policy: Policy,
        blocks: int,
        keys: Sequence[int],
        owner: Sequence[int],
        sigmas: Sequence[float],
        ranks: Ranks,
    ) -> None:
        """:param blocks: how many blocks the transformer has.
        :param keys: [B], the pictures' keys.
        :param owner: [R], the number (0 … B-1) of the picture to which each row belongs.
        :param sigmas: [N + 1], the noise levels, falling.
        :param ranks: the ranks that share the pictures' tokens.
        :raises JobError: a replayed trace does not fit its picture.
        """
        self._policy, self._blocks, self._owner, self._ranks = policy, blocks, owner, ranks
        self._deciders = [policy.decider(key, len(sigmas) - 1) for key in keys]
        self._residual = Residual(policy.taylor_order, sigmas, len(owner))
        # The signal with which the next one is compared, [R, T, D].
        self._reference: Tensor | None = None
        # Hits [B] and distances [B] of every step so far.
        self._steps: list[tuple[list[bool], list[float]]] = []

    def step(
        self,
        step: int,
        tokens: Tokens,
        run: RunBlocks,
        modulated: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Image tokens [R, T, D] after all blocks, computed or reused. Steps come in order, once.

        :param tokens: all rows, as embedded.
        :param modulated: embedded image tokens → the first block's modulated input. Needed only by
            policies that measure it.
        """
        assert step == len(self._steps), f"step {step} after {len(self._steps)} steps"
        device, probe_blocks = tokens.image.device, self._policy.probe_blocks
        probed = run(0, probe_blocks, tokens, None) if probe_blocks else tokens
        signal = self._signal(tokens.image, probed.image, modulated)
        all_rows = self._rows([True] * len(self._deciders), device)
        distances = self._measure(signal, self._reference, all_rows)
        asked = zip(self._deciders, distances, strict=True)
        hits = [decider.before(step, distance) for decider, distance in asked]
        reusing, computing = self._rows(hits, device), self._rows([not hit for hit in hits], device)
        assert step or not reusing.numbers, "the first step has nothing to reuse"

        image = probed.image
        if reusing.numbers:
            reused = reusing.of(image) + self._residual.at(step, reusing)
            image = reusing.put(image, reused.to(image.dtype))
        if computing.numbers:
            chosen = probed if computing.index is None else probed.rows(computing.index)
            computed = run(probe_blocks, self._blocks, chosen, computing.index).image
            image = computing.put(image, computed)
            distances = self._renew(step, computing, computed - chosen.image, distances)
        self._refer(signal, computing)
        self._steps.append((hits, distances))
        return image

    def traces(self) -> list[Trace]:
        """What each of the B pictures skipped so far, and its distances."""
        return [self._trace(picture) for picture in range(len(self._deciders))]

    def _trace(self, picture: int) -> Trace:
        letters = (SKIPPED if hits[picture] else COMPUTED for hits, _ in self._steps)
        measured = (distances[picture] for _, distances in self._steps)
        finite = tuple(number if math.isfinite(number) else None for number in measured)
        return Trace("".join(letters), finite)

    def _rows(self, which: Sequence[bool], device: torch.device) -> Selection:
        """The rows of some pictures.

        :param which: [B], whether a picture is one of them.
        """
        numbers = [row for row, picture in enumerate(self._owner) if which[picture]]
        return Selection(numbers, len(self._owner), device)

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
        """Distances d_b, [B]; NaN for pictures without selected rows, or if there is no reference.

        :param values: of the selected rows, [n, T, D], as is `reference`.
        """
        pictures = len(self._deciders)
        if values is None or reference is None:
            return [math.nan] * pictures
        # In place, because a copy can take a gigabyte.
        change = values.to(torch.float32, copy=True).sub_(reference).abs_()
        sizes = reference.abs().sum((1, 2), dtype=torch.float32)
        sums = torch.stack([change.sum((1, 2)), sizes])  # [2, n]
        sums = self._ranks.agree(self._ranks.sum(sums)).cpu().double()
        owner = torch.tensor([self._owner[row] for row in rows.numbers])
        changes, sizes = sums.new_zeros(2, pictures).index_add(1, owner, sums)
        distances: list[float] = (changes / sizes).tolist()
        return distances

    def _renew(
        self, step: int, rows: Selection, residual: Tensor, distances: list[float]
    ) -> list[float]:
        """Store a computed residual [n, T, D], after a policy that `judges` was told its distance.

        :param distances: [B], of the signal.
        :return: [B], the distances to record for this step.
        """
        if self._policy.judges:
            distances = self._measure(residual, self._residual.last(rows), rows)
            for picture in sorted({self._owner[row] for row in rows.numbers}):
                self._deciders[picture].after(step, distances[picture])
        self._residual.renew(step, rows, residual)
        return distances

    def _refer(self, signal: Tensor | None, computed: Selection) -> None:
        """Set the reference with which the next step's signal is compared."""
        if signal is None or self._reference is None or self._policy.reference == "previous":
            self._reference = signal
        elif computed.numbers:
            self._reference = computed.put(self._reference, computed.of(signal))
