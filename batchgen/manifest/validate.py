"""Check every row of a manifest, in bounded batches, before anything is planned.

All problems are counted, and the first ten are shown in full. Not promised: that a model can make
a picture of a prompt, or that columns outside the contract make sense. The latter must only be
readable and valid UTF-8.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from batchgen.errors import ManifestError
from batchgen.manifest.checks import Checks, Limits
from batchgen.manifest.columns import BY_NAME, Columns
from batchgen.manifest.contract import MAX_PICTURES
from batchgen.manifest.convert import Conversion, to_parquet
from batchgen.manifest.duplicates import find_duplicates, hash_ids
from batchgen.manifest.effects import Effects
from batchgen.manifest.files import Source, identify_file
from batchgen.manifest.find import kind_of
from batchgen.manifest.json_types import JsonType, json_types
from batchgen.manifest.parquet import ParquetManifest, open_all
from batchgen.manifest.problems import Problems, name_files
from batchgen.manifest.shapes import ShapeColumns, decode_shape, shapes_of
from batchgen.settings import Sampling

# (width px, height px, steps, with negative prompt) → number of pictures, sorted.
Shapes = Mapping[tuple[int, int, int, bool], int]


@dataclass(frozen=True)
class ValidManifest:
    """What a valid manifest holds."""

    # The Parquet files to read rows from.
    sources: tuple[Source, ...]
    # The SHA-256 of each file that the user wrote.
    content: tuple[str, ...]
    # How files other than Parquet were read, for people: "CSV separated by tabs, UTF-8".
    described: str
    columns: Columns
    # Travelling column → its type in the samples' JSON.
    json_types: Mapping[str, JsonType]
    rows: int
    pictures: int
    # Prompts, negative ones included, that `long_prompts = "truncate"` will cut.
    over_long: int
    shapes: Shapes
    has_ids: bool
    effects: Effects


def validate_manifest(
    files: Sequence[Path],
    sampling: Sampling,
    *,
    parquet: Path | None = None,
    mapping: Mapping[str, str] = BY_NAME,
    max_tokens: int,
    long_prompts: str,
    count_tokens: Callable[[str], int],
    limits: Limits = Limits(),  # noqa: B008  frozen
) -> ValidManifest:
    """Check the files of a manifest and count what they hold, while another thread hashes them.

    :param files: from `find_files`.
    :param parquet: where files are converted to that are not Parquet; not touched for Parquet.
    :param mapping: `[manifest] columns`.
    :param sampling: the job's values for what rows leave out.
    :param max_tokens: the text encoder's limit, its end token included.
    :param long_prompts: "refuse" makes an over-long prompt a problem, "truncate" only counts it.
    :param count_tokens: tokens of a text, the end token included; called only for texts whose
        bytes may be too many.
    :param limits: what the model accepts of a row.
    :raises ManifestError: with the number of problems, and file, row, column, value and remedy of
        the first ten.
    :raises JobError: rows take the job's value for a column, and it breaks the contract; or
        `mapping` names columns that are not there.
    """
    problems, refuse_long = Problems(), long_prompts == "refuse"
    converted = _convert(files, parquet, problems, mapping)
    tables = files if converted is None else [converted.parquet]
    try:
        opened, columns = open_all(tables, mapping, converted.origins if converted else ())
        checks = Checks(columns, sampling, limits, max_tokens, refuse_long, count_tokens)
        checks.check_job()
        effects = Effects(sampling, limits.guidance)
        sources, shapes = _check_and_hash(opened, checks, effects, problems)
    except BaseException:
        if converted:
            converted.parquet.unlink(missing_ok=True)
        raise
    return ValidManifest(
        sources=sources,
        content=tuple(one.sha256 for one in (converted.sources if converted else sources)),
        described=converted.described if converted else "",
        columns=columns,
        json_types=json_types(columns.travelling),
        rows=sum(source.rows for source in sources),
        pictures=sum(shapes.values()),
        over_long=checks.over_long,
        shapes=shapes,
        has_ids="id" in columns.used,
        effects=effects,
    )


def _convert(
    files: Sequence[Path], parquet: Path | None, problems: Problems, mapping: Mapping[str, str]
) -> Conversion | None:
    """Convert files that are not Parquet; None for Parquet."""
    if kind_of(files[0]) == "parquet":
        return None
    if parquet is None:
        raise ValueError("files other than Parquet need a place to be converted to")
    return to_parquet(files, parquet, problems, mapping)


def _check_and_hash(
    opened: Sequence[ParquetManifest], checks: Checks, effects: Effects, problems: Problems
) -> tuple[tuple[Source, ...], Shapes]:
    """Check every row while another thread hashes the files, and close them."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="hash")
    try:
        hashing = [pool.submit(identify_file, Path(file.file), file.rows) for file in opened]
        shapes = _check_rows(opened, checks, effects, problems)
        return tuple(future.result() for future in hashing), shapes
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        for manifest in opened:
            manifest.close()


def _check_rows(
    opened: Sequence[ParquetManifest], checks: Checks, effects: Effects, problems: Problems
) -> Shapes:
    """Check every row, and count the pictures of each shape.

    :param effects: counts the rows too.
    :param problems: what is known already.
    :raises ManifestError: a row or a file breaks the contract, or there are more pictures than
        keys.
    """
    if not any(manifest.rows for manifest in opened):
        problems.raise_if_any()
        names = name_files(manifest.name() for manifest in opened)
        raise ManifestError(f"{names}: no rows; a manifest needs at least one prompt")
    used, counts, hashes = checks.columns.used, Counter[int](), array("q")
    readable, start = [], 0
    for manifest in opened:
        try:
            for row, batch in manifest.batches(manifest.schema.names):
                ids = checks.check(batch, manifest.place_from(row), problems, start + row)
                if ids is not None:
                    hashes.frombytes(hash_ids(ids).tobytes())
                _count_pictures(shapes_of(batch, used, checks.sampling), counts)
                effects.count(batch, used)
            readable.append((start, manifest))
        except ManifestError as corrupt:
            problems.add(str(corrupt), start)
        start += manifest.rows
    if "id" in used:
        find_duplicates(readable, used["id"], hashes, problems)
    problems.raise_if_any()
    pictures = counts.total()
    if pictures > MAX_PICTURES:
        raise ManifestError(
            f"the manifest asks for {pictures:,} pictures, a run holds at most {MAX_PICTURES:,}: "
            "split it into runs"
        )
    return {decode_shape(code): counts[code] for code in sorted(counts)}


def _count_pictures(rows: ShapeColumns, counts: Counter[int]) -> None:
    """Add the pictures of each shape to `counts`, whose keys are the shapes' codes."""
    codes, which = np.unique(rows.codes(), return_inverse=True)
    pictures = np.bincount(which, rows.images)
    for code, number in zip(codes.tolist(), pictures.tolist(), strict=True):
        counts[code] += int(number)
