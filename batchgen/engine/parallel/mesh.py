"""How a replica's ranks form a mesh, and who holds which tokens. Planning checks it without torch.

There are two ways to attend over tokens that are split over ranks. Ulysses deals out the heads, so
that each rank sees all tokens of its heads (https://arxiv.org/abs/2309.14509). The ring passes keys
and values from rank to rank, so that each rank's queries meet all of them in turn
(https://arxiv.org/abs/2310.01889). A mesh does both (https://arxiv.org/abs/2405.07719), Ulysses
between neighbouring ranks, because it moves more data at once and needs the faster links.

Classifier-free guidance asks for two rows of a picture, which never meet inside the transformer.
With `cfg = 2` two halves of a replica compute half of the rows each (`halves.py`), and the mesh is
that of each half:

    rank = (half · ring + ring rank) · ulysses + Ulysses rank
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from batchgen.errors import JobError, counted


@dataclass(frozen=True, slots=True)
class Mesh:
    """`cfg` meshes of `ulysses` × `ring` ranks; by default one rank alone."""

    ulysses: int = 1
    ring: int = 1
    # 2: the rows of classifier-free guidance are shared by two halves; else 1.
    cfg: int = 1

    @property
    def cp(self) -> int:
        """How many ranks share the tokens of a row."""
        return self.ulysses * self.ring

    @property
    def degree(self) -> int:
        """How many ranks a replica has."""
        return self.cp * self.cfg

    @property
    def halves(self) -> list[list[int]]:
        """The ranks that share the tokens of the same rows, a list for each half."""
        return [[half * self.cp + place for place in range(self.cp)] for half in range(self.cfg)]

    @property
    def branches(self) -> list[list[int]]:
        """The ranks that hold the same tokens of different rows: one of each half."""
        return [list(ranks) for ranks in zip(*self.halves, strict=True)]


def choose_mesh(degree: int, ulysses: int, ring: int, heads: int, cfg: int = 1) -> Mesh:
    """The mesh of `degree` ranks: Ulysses as far as it divides the heads, the ring for the rest.

    :param degree: ranks of one half, if there are two.
    :param ulysses: the job's wish; 0 leaves it open, as does `ring` = 0.
    :param heads: the model's attention heads.
    :param cfg: how many such meshes a replica has.
    :raises JobError: what was asked for is impossible; see `check_mesh`.
    """
    ulysses = ulysses or (max(1, degree // ring) if ring else math.gcd(degree, heads))
    ring = ring or max(1, degree // ulysses)
    check_mesh(degree, ulysses, ring, heads)
    return Mesh(ulysses, ring, cfg)


def check_mesh(degree: int, ulysses: int, ring: int, heads: int) -> None:
    """Check that `ulysses` × `ring` are `degree` ranks, and that `ulysses` divides the heads.

    :raises JobError: it is not so; the message shows the arithmetic, and every mesh that would do.
    """
    pairs = "; ".join(
        f"ulysses = {n}, ring = {degree // n}"
        for n in range(1, min(degree, heads) + 1)
        if degree % n == 0 and heads % n == 0
    )
    possible = f"With {heads} heads, cp = {degree} can be: {pairs}"
    if ulysses * ring != degree:
        raise JobError(
            f"[parallel] ulysses * ring = {ulysses} * {ring} = {ulysses * ring}, but cp = {degree}."
            f" {possible}"
        )
    if heads % ulysses:
        raise JobError(
            f"[parallel] ulysses = {ulysses}: the model's {heads} attention heads cannot be dealt "
            f"out to {ulysses} ranks, {heads} % {ulysses} = {heads % ulysses}. Use the ring, which "
            f"leaves heads whole. {possible}"
        )


def shares(length: int, ranks: int) -> tuple[int, ...]:
    """How many of `length` tokens each rank holds, in rank order.

    Shares are contiguous and equal to within one. The last are 0 if there are fewer tokens than
    ranks.
    """
    return tuple(length // ranks + (rank < length % ranks) for rank in range(ranks))


def check_shares(length: int, ranks: int, what: str) -> None:
    """Check that every rank holds a token.

    :param length: tokens of all ranks.
    :param what: what they are tokens of, for the message.
    :raises JobError: there are fewer tokens than ranks.
    """
    if length < ranks:
        raise JobError(
            f"parallel.cp = {ranks}: {what} has "
            f"{counted(length, 'token')}, and each rank needs one. --set parallel.cp={length}"
        )
