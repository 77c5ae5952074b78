"""Consecutive pictures of a manifest from a place on: what trials and later generations make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import fields

import numpy as np

from batchgen.manifest import ShapeColumns, decode_shape
from batchgen.planning.cut import cut_shards
from batchgen.planning.plan import Shape, Shard

# The begin of every manifest.
START = Shard(0, 0, 0, 0)


def stretch(
    blocks: Iterable[ShapeColumns], begin: Shard, pictures: int | None = None
) -> Iterator[ShapeColumns]:
    """The rows from a place on; of the first and the last perhaps not all pictures.

    :param blocks: all rows of the manifest, in order.
    :param begin: the place: `row`, and `skip` pictures of it that do not belong.
    :param pictures: how many; None for all that follow.
    """
    row, left = 0, pictures
    for rows in blocks:
        count = len(rows.images)
        if row + count > begin.row and left != 0:
            first = max(begin.row - row, 0)
            images = rows.images[first:].copy()
            if row + first == begin.row:
                images[0] -= begin.skip
            if left is not None:
                ends = np.cumsum(images)
                count_here = min(int(np.searchsorted(ends, left)) + 1, len(images))
                images = images[:count_here]
                images[-1] -= max(int(ends[count_here - 1]) - left, 0)
                left -= int(images.sum())
            others = {
                one.name: getattr(rows, one.name)[first : first + len(images)]
                for one in fields(rows)
            }
            yield ShapeColumns(**others | {"images": images})
        row += count


def cut_stretch(
    blocks: Iterable[ShapeColumns], begin: Shard, size: int, batch_size: int
) -> tuple[tuple[Shard, ...], int]:
    """Cut what `stretch` gives from a place on into shards of `size` pictures.

    :param begin: `first_key` is the key of its first picture.
    :return: as of `cut_shards`.
    """
    shards, groups = cut_shards(blocks, size, batch_size)
    return tuple(
        Shard(
            begin.first_key + one.first_key,
            one.pictures,
            begin.row + one.row,
            one.skip + (begin.skip if one.row == 0 else 0),
        )
        for one in shards
    ), groups


def count_shapes(blocks: Iterable[ShapeColumns]) -> tuple[Shape, ...]:
    """How many pictures of each shape rows have."""
    counts: Counter[int] = Counter()
    for rows in blocks:
        for code in np.unique(rows.codes()).tolist():
            counts[code] += int(rows.images[rows.codes() == code].sum())
    return tuple(Shape(*decode_shape(code), counts[code]) for code in sorted(counts))
