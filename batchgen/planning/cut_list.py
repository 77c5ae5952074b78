"""Frozen lists of pictures → shards: where the pictures are in the manifest, and their groups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from batchgen.manifest import ShapeColumns, decode_shape
from batchgen.planning.plan import Shape, Shard

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Places:
    """Where K pictures are in the manifest. Each field has K values, in the order of their keys."""

    keys: Ints
    rows: Ints
    # Which picture of its row each is, from 0.
    images: Ints
    # Its shape, as `ShapeColumns.codes` has it.
    codes: Ints


def locate_keys(blocks: Iterable[ShapeColumns], keys: Ints) -> Places:
    """Find pictures by their keys.

    :param blocks: all rows of the manifest, in order.
    :param keys: in ascending order.
    :raises ValueError: the manifest has no such picture.
    """
    row = key = 0
    found: list[tuple[Ints, Ints, Ints]] = []
    for rows in blocks:
        ends = key + np.cumsum(rows.images)
        ours = keys[np.searchsorted(keys, key) : np.searchsorted(keys, ends[-1])]
        at = np.searchsorted(ends, ours, side="right")
        found.append((row + at, ours - (ends - rows.images)[at], rows.codes()[at]))
        row, key = row + len(ends), int(ends[-1])
    if len(keys) and not 0 <= keys[0] <= keys[-1] < key:
        raise ValueError(f"the manifest has {key} pictures")
    rows_, images, codes = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Places(keys, rows_, images, codes)


def shapes_of_list(places: Places) -> tuple[Shape, ...]:
    """How many pictures of each shape a list has."""
    codes, counts = np.unique(places.codes, return_counts=True)
    pairs = zip(codes.tolist(), counts.tolist(), strict=True)
    return tuple(Shape(*decode_shape(code), count) for code, count in pairs)


def cut_list(places: Places, size: int, batch_size: int) -> tuple[tuple[Shard, ...], int]:
    """Cut a list into shards of `size` pictures.

    :return: the shards, and how many groups of up to `batch_size` they have, counted exactly.
    """
    shards, groups = [], 0
    for at in range(0, len(places.keys), size):
        codes = places.codes[at : at + size]
        first = places.keys[at], len(codes), places.rows[at], places.images[at]
        shards.append(Shard(*map(int, first)))
        groups += int((-(-np.unique(codes, return_counts=True)[1] // batch_size)).sum())
    return tuple(shards), groups
