"""adaLN modulations, taken out of the blocks and computed once a group.

Every block scales, shifts and gates by vectors that are a linear function of one embedding: of the
timestep, the guidance and the pooled text. They depend on nothing else, and the noise levels are
known before the loop begins. In FLUX.1-dev these linears are 27% of the weights (76 linears, 3.2
of 11.9 billion parameters), and a step of a small group would spend its time reading them. Here
each linear is applied to a window of steps at once.

The result is exact up to the rounding of a larger matrix product. The cost is memory for the
vectors of a window: 2.1 MB a picture and step for FLUX.1 in bf16.

Legend: R rows, N steps, n steps of a window, D width, M modulation values of a block (FLUX.1: 12·D
in a double block, 3·D in a single one).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

# Steps that are computed at once.
WINDOW = 32


class Slice(nn.Module):
    """Takes the place of a block's modulation linear, and its part of what was computed before."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, modulation: Tensor) -> Tensor:
        """[R, M] → [R, last - first]."""
        return modulation[:, self.first : self.last]


class Modulator(nn.Module):
    """The modulation linears of all blocks."""

    def __init__(
        self, linears: Sequence[Sequence[nn.Linear]], activation: nn.Module | None = None
    ) -> None:
        """:param linears: of each block. Blocks may share them, as those of FLUX.2 do.
        :param activation: of the embedding, before all linears; None: SiLU.
        """
        super().__init__()
        self.blocks = linears
        self.activation = activation or nn.SiLU()
        distinct = dict.fromkeys(linear for block in linears for linear in block)
        self.linears = nn.ModuleList(distinct)

    def forward(self, temb: Tensor) -> list[Tensor]:
        """[n, R, D] → for each block [n, R, M]. Blocks that share linears get one tensor."""
        active, made = self.activation(temb), dict[tuple[nn.Linear, ...], Tensor]()
        for block in self.blocks:
            if (linears := tuple(block)) not in made:
                made[linears] = torch.cat([linear(active) for linear in linears], dim=-1)
        return [made[tuple(block)] for block in self.blocks]


class Modulations:
    """The modulations of one group, computed a window of steps at a time."""

    def __init__(self, modulator: nn.Module, temb: Tensor) -> None:
        """:param modulator: see `Family.modulator`.
        :param temb: [N, R, D], the embedding of every step.
        """
        self._modulator, self._temb = modulator, temb
        self._window: list[Tensor] = []
        self._first = -WINDOW

    def at(self, step: int, rows: Tensor | None = None) -> list[Tensor]:
        """For each block [r, M], and for the head where the family's is modulated so.

        :param rows: the numbers of r of the R rows; None: all.
        """
        if not self._first <= step < self._first + WINDOW:
            self._first = step - step % WINDOW
            self._window = self._modulator(self._temb[self._first : self._first + WINDOW])
        # Blocks may share a tensor.
        distinct = {id(block): block[step - self._first] for block in self._window}
        if rows is not None:
            distinct = {key: block.index_select(0, rows) for key, block in distinct.items()}
        return [distinct[id(block)] for block in self._window]


def hoist_modulations(blocks: Sequence[nn.Module]) -> Modulator:
    """Take the modulation linears out of the blocks.

    From then on a block is handed its modulation [R, M] in place of the embedding.

    :param blocks: diffusers' MMDiT blocks. Each of their norms that holds a `silu` and a `linear`
        is one part of the modulation.
    """
    return Modulator([_hoist(block) for block in blocks])


def _hoist(block: nn.Module) -> list[nn.Linear]:
    taken, at = [], 0
    for norm in block.children():
        linear = getattr(norm, "linear", None)
        if isinstance(linear, nn.Linear) and hasattr(norm, "silu"):
            norm.silu, norm.linear = nn.Identity(), Slice(at, at + linear.out_features)
            at += linear.out_features
            taken.append(linear)
    return taken
