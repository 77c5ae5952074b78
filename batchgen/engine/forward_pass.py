"""One group's way through the transformer, in stages, so that a technique can stand between two of them.

    embed → split over the ranks → blocks, or what the cache takes for them → head → gather

Latents stay whole on every rank and only what is wide is split: a rank embeds all tokens and keeps its share, which costs less than keeping
them apart, and a group that turns out bad looks the same to all.

Legend: R rows (the pictures, then the negative branches of those with classifier-free guidance), S text tokens, T image tokens, D width,
C latent channels of a token, N steps.
"""

from __future__ import annotations

import torch
from torch import Tensor

from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.families.family import Conditions, Family, Tokens
from batchgen.engine.modulation import Modulations, Modulator
from batchgen.engine.parallel.collectives import Ranks


class Forward:
    """The transformer for one group; born with it, dies with it."""

    def __init__(
        self,
        family: Family,
        modulator: Modulator,
        conditions: Conditions,
        size: tuple[int, int],
        ranks: Ranks,
        cache: StepCache | None,
    ) -> None:
        """:param size: (width, height) of the group's pictures, px.
        :param cache: None: every block is computed at every step.
        """
        self._family, self._size, self._ranks, self._cache = family, size, ranks, cache
        self._temb, self._modulations = conditions.temb, Modulations(modulator, conditions.temb)
        self._text, self._rotary = ranks.split(conditions.text), split_rotary(conditions, ranks)

    def velocity(self, latents: Tensor, step: int) -> Tensor:
        """[R, T, C] → the velocity in the same shape, the same bits on every rank. Steps come in order, each once."""
        modulations = self._modulations.at(step)
        tokens = Tokens(self._ranks.split(self._family.embed(latents, self._size)), self._text)

        def run(first: int, last: int, tokens: Tokens, rows: Tensor | None) -> Tokens:
            for index in range(first, last):
                modulation = (
                    modulations[index] if rows is None else modulations[index].index_select(0, rows)
                )
                tokens = Tokens(
                    *self._family.block(index, tokens.image, tokens.text, modulation, self._rotary)
                )
            return tokens

        if self._cache is None:
            image = run(0, len(self._family.blocks), tokens, None).image
        else:
            image = self._cache.step(
                step, tokens, run, lambda image: self._family.modulated(image, modulations[0])
            )
        return self._ranks.gather(self._family.head(image, self._temb[step]), latents.shape[1])


def split_rotary(conditions: Conditions, ranks: Ranks) -> tuple[Tensor, Tensor] | None:
    """This rank's positions: its share of the text's, then its share of the image's."""
    if conditions.rotary is None:
        return None
    text = conditions.text.shape[1]
    cosines, sines = (
        torch.cat([ranks.split(part[:text], 0), ranks.split(part[text:], 0)])
        for part in conditions.rotary
    )
    return cosines, sines
