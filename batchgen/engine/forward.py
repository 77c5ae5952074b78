"""One group's way through the transformer, in three stages, so that a technique can stand between two of them.

    embed → blocks → head

Legend: R rows (the pictures, then the negative branches of those with classifier-free guidance), S text tokens, T image tokens, D width,
C latent channels of a token, N steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from batchgen.engine.family import Conditions, Family
from batchgen.engine.modulation import Modulations, Modulator


@dataclass(frozen=True, slots=True)
class Tokens:
    """What flows through the blocks."""

    image: Tensor  # [R, T, D]
    text: Tensor  # [R, S, D]

    def rows(self, index: Tensor) -> Tokens:
        """These rows, in this order."""
        return Tokens(self.image.index_select(0, index), self.text.index_select(0, index))


class Forward:
    """The transformer for one group; born with it, dies with it."""

    def __init__(self, family: Family, modulator: Modulator, conditions: Conditions, size: tuple[int, int]) -> None:
        """:param size: (width, height) of the group's pictures, px."""
        self._family, self._conditions, self._size = family, conditions, size
        self._modulations = Modulations(modulator, conditions.temb)

    def velocity(self, latents: Tensor, step: int) -> Tensor:
        """[R, T, C] → the velocity in the same shape."""
        tokens = Tokens(self._family.embed(latents, self._size), self._conditions.text)
        tokens = self._blocks(step, 0, len(self._family.blocks), tokens, None)
        return self._family.head(tokens.image, self._conditions.temb[step])

    def _blocks(self, step: int, first: int, last: int, tokens: Tokens, rows: Tensor | None) -> Tokens:
        """Blocks `first` to `last` of these rows; all of them where `rows` is None."""
        modulations = self._modulations.at(step)
        for index in range(first, last):
            modulation = modulations[index] if rows is None else modulations[index].index_select(0, rows)
            tokens = Tokens(*self._family.block(index, tokens.image, tokens.text, modulation, self._conditions.rotary))
        return tokens
