"""A picture in horizontal bands, computed as if it were whole: over the ranks of a replica, band after band on one device, or both.

Bands are not tiles: nothing is approximated or blended, only sums are rounded in another order. What looks beyond a band:

    3×3 convolutions   see one row of each neighbour; at the picture's own edges they see zeros, as always
    group norms        use mean and variance of the whole picture
    attention          every pixel attends to the keys and values of the whole picture

The rest (activations, 1×1 convolutions, residuals, upsampling by repetition) stays inside. On one device all bands pass a layer before the
next begins. That needs room for the activations a layer reads and writes, in full, but for its workspace (normalized, activated, padded and
upsampled copies) in one band only: less, not 1/n of everything. Nothing is recomputed but the rows at the bands' edges.

Not covered: gradients; bands of columns.

Legend: B pictures, C channels, G groups of channels, h rows of latents, W pixels in a row, n bands of all ranks.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import shares
from batchgen.errors import JobError

Layer = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Bands:
    """A picture's activations at one place in the decoder. Layers replace them band by band, so that what was read can go at once."""

    parts: deque[Tensor]  # this rank's bands, top to bottom, each [B, C, rows, W]
    high: int  # h: rows of the latents of all ranks
    weights: Tensor  # [n, 1, 1] fp32, each band's part of the picture
    ranks: Ranks

    def pass_through(self, layer: Layer, scale: int = 1) -> None:
        """Replace every band by what the layer makes of it; collective.

        The layer is given the band and one row of each neighbour, and pads that window with zeros itself: at the picture's edges this is
        right, elsewhere it spoils only rows that belong to a neighbour, and these are cut off. So a layer is any module as it stands,
        and the price is two more rows a band.

        :param layer: [B, C, rows, W] → [B, C', scale·rows, W'], looks one row beyond its own, counted before or after it scales.
        """
        above, end = self._edges()
        for remaining in reversed(range(len(self.parts))):
            part = self.parts.popleft()
            below = self.parts[0][:, :, :1] if remaining else end
            last, rows = part[:, :, -1:].clone(), part.shape[2]
            window, top = _window(above, part, below), 0 if above is None else scale
            del (
                part
            )  # unless it is kept for a residual, it can go before the layer takes its workspace
            self.parts.append(layer(window)[:, :, top : top + scale * rows])
            above = last

    def _edges(self) -> tuple[Tensor | None, Tensor | None]:
        """The rows next to this rank's own, [B, C, 1, W] each: the rank above's last, the rank below's first; None beyond the picture."""
        ranks = self.ranks
        neighbours = [
            int(abs(rank - ranks.rank) == 1) for rank in range(ranks.degree)
        ]  # one row to each, one from each
        if not any(neighbours):
            return None, None
        top, bottom = ranks.rank == 0, ranks.rank == ranks.degree - 1
        ours = [self.parts[0][:, :, :1]] * (not top) + [self.parts[-1][:, :, -1:]] * (not bottom)
        theirs = ranks.exchange(torch.stack(ours), neighbours, neighbours)
        return None if top else theirs[0], None if bottom else theirs[-1]

    def normalizer(self, norm: nn.GroupNorm) -> Layer:
        """The group norm with the statistics of these bands together, as a function of any of their rows; collective.

        Means and variances are fp32 and merge as (n, mean, M2) do, divided by n: M2 / n = Σ nᵢ/n · (M2ᵢ/nᵢ + (meanᵢ - mean)²).
        Chan, Golub, LeVeque: Updating formulae and a pairwise algorithm for computing sample variances (1979).
        """
        own = torch.stack(
            [_statistics(part, norm.num_groups) for part in self.parts]
        )  # [bands, 2, B, G]
        variances, means = self.ranks.gather(own, len(self.weights), dim=0).unbind(1)  # [n, B, G]
        mean = (self.weights * means).sum(0)
        variance = (self.weights * (variances + (means - mean).square())).sum(0)

        size, batch = norm.num_channels // norm.num_groups, len(mean)
        channels = (
            statistic.repeat_interleave(size, dim=1).flatten() for statistic in (mean, variance)
        )
        affine = (parameter.float().repeat(batch) for parameter in (norm.weight, norm.bias))
        return functools.partial(_normalize, constants=(*channels, *affine), eps=norm.eps)

    def join(self, parts: Iterable[Tensor], dim: int) -> Tensor:
        """The whole of which `parts` are what this rank's bands have along `dim`; collective."""
        mine = torch.cat(list(parts), dim)
        rows = shares(self.high, self.ranks.degree)[self.ranks.rank]
        by_row = torch.unflatten(
            mine, dim, (rows, -1)
        )  # whatever a row of latents has become by now: tokens, rows of px
        return self.ranks.gather(by_row, self.high, dim).flatten(dim, dim + 1)


def split(whole: Tensor, ranks: Ranks, bands: int) -> Bands:
    """A picture that every rank has, [B, C, h, w], divided; each rank keeps its own.

    :raises JobError: fewer rows than ranks.
    """
    high = whole.shape[2]
    if high < ranks.degree:
        raise JobError(
            f"a picture of {high} latent rows cannot be decoded in bands over {ranks.degree} ranks: each needs a row. "
            "Decode it undivided, or ask for fewer ranks ([parallel] cp)"
        )
    local = max(1, min(bands, high // ranks.degree))
    rows = [list(shares(rank, local)) for rank in shares(high, ranks.degree)]
    weights = torch.tensor(
        [band / high for rank in rows for band in rank], device=whole.device
    ).view(-1, 1, 1)
    return Bands(
        deque(torch.split(ranks.split(whole, dim=2), rows[ranks.rank], dim=2)), high, weights, ranks
    )


def _window(above: Tensor | None, part: Tensor, below: Tensor | None) -> Tensor:
    """A band and the rows next to it, in the band's memory format: joining mixed formats would give up channels_last."""
    layout = torch.channels_last if part.stride(1) == 1 else torch.contiguous_format
    rows = [
        row if row is part else row.contiguous(memory_format=layout)
        for row in (above, part, below)
        if row is not None
    ]
    return torch.cat(rows, dim=2)


def _statistics(part: Tensor, groups: int) -> Tensor:
    """Variance and mean [2, B, G] of a band, fp32."""
    return torch.stack(
        torch.var_mean(torch.unflatten(part, 1, (groups, -1)).float(), dim=(2, 3, 4), correction=0)
    )


def _normalize(part: Tensor, constants: tuple[Tensor, ...], eps: float) -> Tensor:
    """(part - mean) / √(variance + eps) · weight + bias, each constant [B·C] fp32: a batch norm of known statistics, one fused kernel."""
    mean, variance, weight, bias = constants
    channels_first = part.reshape(1, -1, *part.shape[2:])
    return F.batch_norm(channels_first, mean, variance, weight, bias, eps=eps).view(part.shape)
