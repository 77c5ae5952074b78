"""One group's way through the transformer, in stages, so that a technique fits between two of them.

    embed → split over the ranks → blocks, or what the cache takes for them → head → gather

Latents stay whole on every rank, and only the wide tokens are split. A rank embeds all tokens and
keeps its share, which costs less than keeping latents apart; and latents that turn out bad look the
same to all ranks.

Legend: R rows (the pictures, then the negative branches of those with classifier-free guidance),
T image tokens, C latent channels of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.families.family import Conditions, Family, Tokens
from batchgen.engine.modulation import Modulations, Modulator
from batchgen.engine.parallel.collectives import Ranks


class Forward:
    """The transformer for one group."""

    def __init__(
        self,
        family: Family,
        modulator: Modulator,
        conditions: Conditions,
        size: tuple[int, int],
        ranks: Ranks,
        cache: StepCache | None,
    ) -> None:
        """:param size: (width, height) of the group's pictures, in pixels.
        :param cache: None: every block is computed at every step.
        """
        self._family, self._size, self._ranks, self._cache = family, size, ranks, cache
        self._temb, self._modulations = conditions.temb, Modulations(modulator, conditions.temb)
        self._text, self._rotary = ranks.split(conditions.text), _split_rotary(conditions, ranks)

    def velocity(self, latents: Tensor, step: int, rows: Tensor | None = None) -> Tensor:
        """The velocity of latents, both [R, T, C]; the same bits on every rank.

        Steps come in order, each at most once.

        :param rows: the numbers of the group's rows that the latents are; None: all.
        """
        modulations, temb, text = self._modulations.at(step), self._temb[step], self._text
        if rows is not None:
            assert self._cache is None, "a step cache keeps all rows"
            modulations = [block.index_select(0, rows) for block in modulations]
            temb, text = temb.index_select(0, rows), text.index_select(0, rows)
        tokens = Tokens(self._ranks.split(self._family.embed(latents, self._size)), text)

        def run(first: int, last: int, tokens: Tokens, rows: Tensor | None) -> Tokens:
            image, text = tokens.image, tokens.text
            for index in range(first, last):
                modulation = modulations[index]
                if rows is not None:
                    modulation = modulation.index_select(0, rows)
                image, text = self._family.block(index, image, text, modulation, self._rotary)
            return Tokens(image, text)

        def modulated(image: Tensor) -> Tensor:
            return self._family.modulated(image, modulations[0])

        if self._cache is None:
            image = run(0, len(self._family.blocks), tokens, None).image
        else:
            image = self._cache.step(step, tokens, run, modulated)
        return self._ranks.gather(self._family.head(image, temb), latents.shape[1])


def _split_rotary(conditions: Conditions, ranks: Ranks) -> tuple[Tensor, Tensor] | None:
    """This rank's positions: its share of the text's, then its share of the image's."""
    if conditions.rotary is None:
        return None
    text = conditions.text.shape[1]
    cosines, sines = (
        torch.cat([ranks.split(part[:text], 0), ranks.split(part[text:], 0)])
        for part in conditions.rotary
    )
    return cosines, sines
