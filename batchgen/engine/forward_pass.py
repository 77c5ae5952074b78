"""One group's way through the transformer, in stages, so that a technique fits between two of them.

    embed → split over the ranks → probe blocks → measure → the other blocks → head → gather

Where a replica has two halves, all of this is done with the rows that this half computes
(`parallel/halves.py`), and the halves' velocities are joined behind it.

Where a cache decides what to compute, it comes in twice: `measure` goes as far as the probe blocks,
if there are any, and `velocity` goes on from there with the rows that are to be computed.

Latents stay whole on every rank, and only the wide tokens are split. A rank embeds all tokens and
keeps its share, which costs less than keeping latents apart; and latents that turn out bad look the
same to all ranks.

Legend: R rows (the pictures, then the negative branches of those with classifier-free guidance),
h of them that this half holds, T image tokens, C latent channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from batchgen.engine.attention.lengths import Lengths
from batchgen.engine.cache.probe import Probe
from batchgen.engine.families.family import Conditions, Family, Tokens
from batchgen.engine.modulation import Modulations
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves, SomeRows


class Forward:
    """The transformer for one group."""

    def __init__(
        self,
        family: Family,
        modulator: nn.Module,
        conditions: Conditions,
        size: tuple[int, int],
        ranks: Ranks,
        probe: Probe | None,
        lengths: Lengths,
        halves: Halves,
    ) -> None:
        """:param conditions: of the rows that this half holds.
        :param size: (width, height) of the group's pictures, in pixels.
        :param ranks: those that share the tokens.
        :param probe: what `measure` measures; None: nothing.
        :param lengths: what the attention of the blocks reads.
        :param halves: who computes which rows.
        """
        self._halves = halves
        self._family, self._size, self._ranks, self._probe = family, size, ranks, probe
        self._temb, self._modulations = conditions.temb, Modulations(modulator, conditions.temb)
        self._text, self._rotary = ranks.split(conditions.text), _split_rotary(conditions, ranks)
        self._lengths, self._own = lengths, conditions.lengths
        self._lengths.text = conditions.text.shape[1]
        # All rows after the probe blocks, between `measure` and `velocity`.
        self._probed: Tokens | None = None

    def measure(self, latents: Tensor, step: int) -> list[float]:
        """How far the signal of each of the B pictures has moved, the same on every rank.

        Steps come in order, each once, and before the step's `velocity`.

        :param latents: of all rows, [R, T, C].
        """
        assert self._probe is not None, "the policy measures nothing"
        held = self._halves.held
        latents = latents[held.start : held.stop]
        embedded, modulations = self._embed(latents, None), self._modulations.at(step)
        signal = self._probe.signal
        self._probed = self._run(0, signal.blocks, embedded, modulations, None)
        if signal.kind == "residual":
            return self._probe.measure(self._probed.image - embedded.image)
        return self._probe.measure(self._family.modulated(embedded.image, modulations[0]))

    def velocity(self, latents: Tensor, step: int, rows: SomeRows | None = None) -> Tensor:
        """The velocity of latents, both [R, T, C]; the same bits on every rank.

        Steps come in order, each at most once.

        :param rows: which of the group's rows the latents are; None: all.
        """
        share = self._halves.share(rows)
        velocity = latents = latents[share.places]
        if len(latents):
            velocity = self._velocity(latents, step, share.rows)
        return self._halves.join(velocity, share.counts)

    def _velocity(self, latents: Tensor, step: int, rows: SomeRows | None) -> Tensor:
        """The velocity of latents, both [h, T, C].

        :param rows: which of the rows that this half holds the latents are; None: all.
        """
        index = None if rows is None else rows.index
        modulations, first = self._modulations.at(step, index), 0
        if self._probe is None:
            tokens = self._embed(latents, index)
        else:
            assert self._probed is not None, "measure comes first"
            tokens = self._probed if index is None else self._probed.rows(index)
            first, self._probed = self._probe.signal.blocks, None
            self._probe.computed(index)
        image = self._run(first, len(self._family.blocks), tokens, modulations, rows).image
        of_head = self._of_head(modulations, step, index)
        velocity = self._ranks.gather(self._family.head(image, of_head), self._lengths.image)
        # Families may add image tokens of their own behind those of the latents.
        return velocity[:, : latents.shape[1]]

    def _of_head(self, modulations: Sequence[Tensor], step: int, rows: Tensor | None) -> Tensor:
        """What modulates the head: see `Family.head`."""
        if len(modulations) > len(self._family.blocks):
            return modulations[-1]
        temb = self._temb[step]
        return temb if rows is None else temb.index_select(0, rows)

    def _embed(self, latents: Tensor, rows: Tensor | None) -> Tokens:
        text = self._text if rows is None else self._text.index_select(0, rows)
        image = self._family.embed(latents, self._size)
        self._lengths.image = image.shape[1]
        return Tokens(self._ranks.split(image), text)

    def _run(
        self,
        first: int,
        last: int,
        tokens: Tokens,
        modulations: Sequence[Tensor],
        rows: SomeRows | None,
    ) -> Tokens:
        """The tokens of some rows after blocks first … last - 1."""
        image, text, own, rotary = tokens.image, tokens.text, self._own, self._rotary
        if rows is not None and own is not None:
            own = tuple(own[row] for row in rows.numbers)
        if rows is not None and rotary is not None and rotary[0].ndim == 3:
            rotary = rotary[0].index_select(0, rows.index), rotary[1].index_select(0, rows.index)
        self._lengths.own = own
        for index in range(first, last):
            image, text = self._family.block(index, image, text, modulations[index], rotary)
        return Tokens(image, text)


def _split_rotary(conditions: Conditions, ranks: Ranks) -> tuple[Tensor, Tensor] | None:
    """This rank's positions: its share of the text's, then its share of the image's."""
    if conditions.rotary is None:
        return None
    text = conditions.text.shape[1]
    cosines, sines = (
        torch.cat([ranks.split(of_text, -2), ranks.split(of_image, -2)], dim=-2)
        for of_text, of_image in (part.tensor_split([text], dim=-2) for part in conditions.rotary)
    )
    return cosines, sines
