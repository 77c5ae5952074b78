"""A picture in horizontal bands, computed as if it were whole.

The bands are spread over the ranks of a replica, or one device works through them in turn, or both.
Bands are not tiles: nothing is approximated or blended, and only sums are rounded in another order.
These operations look beyond a band:

    3×3 convolutions   see one row of each neighbour; zeros at the picture's own edges, as always
    group norms        use mean and variance of the whole picture
    attention          lets every pixel attend to the keys and values of the whole picture

All others stay inside a band: activations, 1×1 convolutions, residuals, upsampling by repetition.

On one device, all bands pass a layer before the next layer begins. The layer's inputs and outputs
are in memory in full, but its normalized, activated, padded and upsampled copies only for one band.
So n bands need less memory than the whole, but more than 1/n of it. Only the rows at the edges of
bands are computed twice.

Not covered: gradients; bands of columns.

Legend: B pictures, C channels, G groups of channels, h rows of latents, W pixels in a row, n bands
of all ranks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import batch_norm

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import shares
from batchgen.errors import JobError

Layer = Callable[[Tensor], Tensor]


@dataclass(slots=True)
class Bands:
    """A picture's activations at one place in the decoder.

    A layer replaces them band by band, so that the memory of those it has read is free at once.
    """

    # This rank's bands from top to bottom, each [B, C, rows, W].
    parts: deque[Tensor]
    # h: rows of latents that all ranks hold together.
    high: int
    # The share that each band has in the picture, [n, 1, 1] fp32.
    weights: Tensor
    ranks: Ranks

    def pass_through(
        self, layer: Layer, scale: int = 1, *, beside: Layer | None = None
    ) -> deque[Tensor]:
        """Replace every band by what the layer makes of it. All ranks must call this.

        The layer is given a window: the band and one row of each neighbour. It pads the window with
        zeros. At the picture's edges this is right; elsewhere it spoils only the neighbours' rows,
        which are cut off. So any module can be used as it is, at the price of two rows a band.

        :param layer: [B, C, rows, W] → [B, C', scale · rows, W']. It may look one row beyond its
            own, counted before or after it scales.
        :param beside: what else is made of every band, of its own pixels alone.
        :returns: what that made, from top to bottom.
        """
        above, end = self._edges()
        made: deque[Tensor] = deque()
        for remaining in reversed(range(len(self.parts))):
            part = self.parts.popleft()
            below = self.parts[0][:, :, :1] if remaining else end
            last, rows = part[:, :, -1:].clone(), part.shape[2]
            window, top = _window(above, part, below), 0 if above is None else scale
            if beside is not None:
                made.append(beside(part))
            # Unless that is the band itself, its memory is freed before the layer needs its own.
            del part
            self.parts.append(layer(window)[:, :, top : top + scale * rows])
            above = last
        return made

    def _edges(self) -> tuple[Tensor | None, Tensor | None]:
        """The row above this rank's first and the row below its last, [B, C, 1, W] each.

        They belong to the neighbouring ranks; None beyond the picture.
        """
        ranks = self.ranks
        if ranks.degree == 1:
            return None, None
        top, bottom = ranks.rank == 0, ranks.rank == ranks.degree - 1
        ours = [self.parts[0][:, :, :1]] * (not top) + [self.parts[-1][:, :, -1:]] * (not bottom)
        # One row goes to each neighbour, and one comes from each.
        lengths = [int(abs(rank - ranks.rank) == 1) for rank in range(ranks.degree)]
        theirs = ranks.exchange(torch.stack(ours), lengths, lengths)
        return None if top else theirs[0], None if bottom else theirs[-1]

    def normalizer(self, norm: nn.GroupNorm) -> Layer:
        """The group norm with the statistics of the whole picture. All ranks must call this.

        The result takes any rows of the picture. Means and variances are fp32. Those of the bands
        are merged by the formula of Chan, Golub and LeVeque, Updating formulae and a pairwise
        algorithm for computing sample variances (1979):

            variance = Σ weightᵢ · (varianceᵢ + (meanᵢ - mean)²)
        """
        own = torch.stack([_statistics(part, norm.num_groups) for part in self.parts])
        variances, means = self.ranks.gather(own, len(self.weights), dim=0).unbind(1)  # [n, B, G]
        mean = (self.weights * means).sum(0)
        variance = (self.weights * (variances + (means - mean).square())).sum(0)

        size, batch = norm.num_channels // norm.num_groups, len(mean)
        mean, variance = (x.repeat_interleave(size, dim=1).flatten() for x in (mean, variance))
        weight, bias = (x.float().repeat(batch) for x in (norm.weight, norm.bias))

        def normalize(rows: Tensor) -> Tensor:
            # A batch norm with given statistics, each [B·C], is one fused kernel.
            flat = rows.reshape(1, -1, *rows.shape[2:])
            return batch_norm(flat, mean, variance, weight, bias, eps=norm.eps).view(rows.shape)

        return normalize

    def join(self, parts: Iterable[Tensor], dim: int) -> Tensor:
        """Join what every rank's bands have along `dim` into the whole. All ranks must call this.

        :param parts: one for each band of this rank. A row of latents may have become several rows
            of pixels or many tokens.
        """
        mine = torch.cat(list(parts), dim)
        rows = shares(self.high, self.ranks.degree)[self.ranks.rank]
        by_row = torch.unflatten(mine, dim, (rows, -1))
        return self.ranks.gather(by_row, self.high, dim).flatten(dim, dim + 1)


def split(whole: Tensor, ranks: Ranks, bands: int) -> Bands:
    """Divide a picture into bands; each rank keeps its own.

    :param whole: [B, C, h, W], the same on every rank.
    :param bands: of each rank; fewer if there are not so many rows.
    :raises JobError: there are fewer rows than ranks.
    """
    high = whole.shape[2]
    if high < ranks.degree:
        raise JobError(
            f"a picture of {high} latent rows cannot be decoded in bands over {ranks.degree} "
            "ranks: each needs a row. Decode it undivided, or ask for fewer ranks ([parallel] cp)"
        )
    local = max(1, min(bands, high // ranks.degree))
    rows = [list(shares(rank, local)) for rank in shares(high, ranks.degree)]
    weights = torch.tensor([band / high for rank in rows for band in rank], device=whole.device)
    parts = torch.split(ranks.split(whole, dim=2), rows[ranks.rank], dim=2)
    return Bands(deque(parts), high, weights.view(-1, 1, 1), ranks)


def _window(above: Tensor | None, part: Tensor, below: Tensor | None) -> Tensor:
    """A band and the rows next to it, in the band's memory format.

    Joining tensors of different formats would lose channels_last.
    """
    layout = torch.channels_last if part.stride(1) == 1 else torch.contiguous_format
    top, bottom = (
        [] if row is None else [row.contiguous(memory_format=layout)] for row in (above, below)
    )
    return torch.cat([*top, part, *bottom], dim=2)


def _statistics(part: Tensor, groups: int) -> Tensor:
    """Variance and mean of a band, [2, B, G] fp32."""
    by_group = torch.unflatten(part, 1, (groups, -1)).float()
    return torch.stack(torch.var_mean(by_group, dim=(2, 3, 4), correction=0))
