"""The validation pass: every row of every file once, in bounded batches, before anything is planned.

All problems are counted, the first ten shown in full. Not promised: that a picture can be painted from a prompt;
that travelling columns make sense (they must only be readable and valid UTF-8).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from batchgen.errors import JobError, ManifestError
from batchgen.manifest.checks import Checks, Limits
from batchgen.manifest.contract import MAX_PICTURES, Columns
from batchgen.manifest.duplicates import IdHashes, find_duplicates
from batchgen.manifest.extras import stored_schema
from batchgen.manifest.files import ParquetManifest, Source, identify_file, open_all
from batchgen.manifest.problems import Problems
from batchgen.manifest.shapes import ShapeColumns, shapes_of
from batchgen.settings import Sampling

Shape = tuple[int, int, int, bool]
"""Width px, height px, steps, with negative prompt: what a group's pictures share."""

_STEPS_BITS, _SIDE_BITS = 10, 15


@dataclass(frozen=True)
class ValidManifest:
    """What a valid manifest holds."""

    sources: tuple[Source, ...]
    rows: int
    pictures: int
    over_long: int  # prompts, negative ones included, that `long_prompts = "truncate"` will cut
    shapes: Mapping[Shape, int]  # pictures of each shape, sorted by shape
    prompt_bytes: int  # UTF-8, of the column prompt, each row once
    has_ids: bool
    extra_schema: pa.Schema  # the travelling columns as `extras` gives them


def validate_manifest(
    files: Sequence[str | Path],
    sampling: Sampling,
    *,
    max_tokens: int,
    long_prompts: str,
    count_tokens: Callable[[str], int],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> ValidManifest:
    """Validate Parquet files and count what they hold; files are hashed at the same time in another thread.

    :param max_tokens: limit of the text encoder, its end token included.
    :param long_prompts: "refuse" makes an over-long prompt a problem, "truncate" only counts it.
    :param count_tokens: tokens of a text, end token included; called only where the text's bytes leave doubt.
    :param limits: what the model takes of a row.
    :raises ManifestError: with the number of problems, and file, row, column, value and remedy of the first ten.
    :raises JobError: rows have no width or height, and the model cannot paint the job's.
    """
    opened, columns = open_all(files)
    _refuse_sides(columns, sampling, limits)
    pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
    try:
        hashing = [
            pool.submit(identify_file, Path(manifest.file), manifest.rows) for manifest in opened
        ]
        tally = _Tally(
            opened,
            columns,
            sampling,
            Checks(columns, sampling, max_tokens, long_prompts, count_tokens, limits),
        )
        tally.read()
        return tally.result(tuple(future.result() for future in hashing))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for manifest in opened:
            manifest.close()


def _refuse_sides(columns: Columns, sampling: Sampling, limits: Limits) -> None:
    """Check the sides that every row takes from the job; `Checks` sees those that some rows take.

    :raises JobError: the model cannot paint them.
    """
    sides = {
        side: getattr(sampling, side)
        for side in ("width", "height")
        if side not in columns.contract
    }
    wrong = [
        f"sampling.{side} = {px}"
        for side, px in sides.items()
        if limits.wrong_sides(np.array([px])).any()
    ]
    if wrong:
        raise JobError(f"{' and '.join(wrong)}: expected {limits.side}")


class _Tally:
    """The counts of one pass over all files."""

    def __init__(
        self,
        opened: Sequence[ParquetManifest],
        columns: Columns,
        sampling: Sampling,
        checks: Checks,
    ) -> None:
        self._opened = opened
        self._columns = columns
        self._sampling = sampling
        self._checks = checks
        self._rows = sum(manifest.rows for manifest in opened)
        self._has_ids = "id" in columns.contract
        self._ids = IdHashes(self._rows if self._has_ids else 0)
        self._problems = Problems()
        self._shapes: Counter[int] = Counter()

    def read(self) -> None:
        """Check and count every row.

        :raises ManifestError: anything breaks the contract.
        """
        if not self._rows:
            raise ManifestError(
                f"{', '.join(manifest.name() for manifest in self._opened)}: no rows; a manifest needs at least one prompt"
            )
        readable = []
        for manifest in self._opened:
            try:
                self._read_file(manifest)
                readable.append(manifest)
            except ManifestError as corrupt:
                self._problems.add(str(corrupt))
        if self._has_ids:
            find_duplicates(readable, self._ids, self._problems)
        self._problems.raise_if_any()

    def result(self, sources: tuple[Source, ...]) -> ValidManifest:
        """What was counted.

        :raises ManifestError: more pictures than keys.
        """
        shapes = {_unpack(key): pictures for key, pictures in sorted(self._shapes.items())}
        pictures = sum(shapes.values())
        if pictures > MAX_PICTURES:
            raise ManifestError(
                f"the manifest asks for {pictures} pictures, a run holds at most {MAX_PICTURES}: split it into runs"
            )
        return ValidManifest(
            sources=sources,
            rows=self._rows,
            pictures=pictures,
            over_long=self._checks.over_long,
            shapes=shapes,
            prompt_bytes=self._checks.prompt_bytes,
            has_ids=self._has_ids,
            extra_schema=stored_schema(self._columns.extra),
        )

    def _read_file(self, manifest: ParquetManifest) -> None:
        for row, batch in manifest.batches(manifest.schema.names):
            ids = self._checks.batch(batch, partial(manifest.place_after, row), self._problems)
            if ids is not None:
                self._ids.add(ids)
            self._count(shapes_of(batch, self._sampling))

    def _count(self, shapes: ShapeColumns) -> None:
        keys = (
            (shapes.width << _SIDE_BITS | shapes.height) << _STEPS_BITS | shapes.steps
        ) << 1 | shapes.has_negative
        distinct, which = np.unique(keys, return_inverse=True)
        for key, pictures in zip(
            distinct.tolist(), np.bincount(which, shapes.images).tolist(), strict=True
        ):
            self._shapes[key] += int(pictures)


def _unpack(key: int) -> Shape:
    negative, steps = bool(key & 1), (key >> 1) & ((1 << _STEPS_BITS) - 1)
    sides = key >> (1 + _STEPS_BITS)
    return sides >> _SIDE_BITS, sides & ((1 << _SIDE_BITS) - 1), steps, negative
