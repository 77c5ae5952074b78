"""How a replica's ranks are laid out, and who holds which tokens: arithmetic alone, so that planning can refuse without importing torch.

Two ways to attend over tokens that are split over ranks: Ulysses deals out heads, so that each rank sees all tokens of its heads
(https://arxiv.org/abs/2309.14509); the ring sends keys and values round, so that each rank's queries see all of them in turn
(https://arxiv.org/abs/2310.01889). On a mesh (https://arxiv.org/abs/2405.07719) Ulysses is innermost, between neighbouring ranks: it moves
more data at once and wants the faster links.

    rank = place in the ring * ulysses + place in Ulysses
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchgen.errors import JobError


@dataclass(frozen=True, slots=True)
class Mesh:
    """A mesh of `ulysses` × `ring` ranks; the default is one rank alone."""

    ulysses: int = 1
    ring: int = 1

    @property
    def degree(self) -> int:
        """Ranks of a replica."""
        return self.ulysses * self.ring


def choose_mesh(degree: int, ulysses: int, ring: int, heads: int) -> Mesh:
    """The layout of `degree` ranks. What is 0 is chosen: Ulysses as far as the heads divide, the ring for the rest.

    :raises JobError: what was asked for cannot be laid out.
    """
    ulysses = ulysses or (max(1, degree // ring) if ring else math.gcd(degree, heads))
    ring = ring or max(1, degree // ulysses)
    check_mesh(degree, ulysses, ring, heads)
    return Mesh(ulysses, ring)


def check_mesh(degree: int, ulysses: int, ring: int, heads: int) -> None:
    """Whether a model with so many attention heads can be split so.

    :raises JobError: it cannot; the message shows the sum that does not come out, and every layout that would.
    """
    if ulysses * ring != degree:
        raise JobError(
            f"[parallel] ulysses * ring = {ulysses} * {ring} = {ulysses * ring}, but cp = {degree}. {_possible(degree, heads)}"
        )
    if heads % ulysses:
        raise JobError(
            f"[parallel] ulysses = {ulysses}: the model's {heads} attention heads cannot be dealt out to {ulysses} ranks, "
            f"{heads} % {ulysses} = {heads % ulysses}. Use the ring, which leaves heads whole. {_possible(degree, heads)}"
        )


def _possible(degree: int, heads: int) -> str:
    pairs = [
        f"ulysses = {n}, ring = {degree // n}"
        for n in range(1, degree + 1)
        if degree % n == 0 and heads % n == 0
    ]
    return f"With {heads} heads, cp = {degree} can be: {'; '.join(pairs)}"


def shares(length: int, ranks: int) -> tuple[int, ...]:
    """Tokens each rank holds of `length`: contiguous, in rank order, equal to within one; 0 for the last where there are too few."""
    return tuple(length // ranks + (rank < length % ranks) for rank in range(ranks))
