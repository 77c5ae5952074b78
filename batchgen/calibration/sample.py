"""A seeded, stratified sample of a manifest's pictures, as a manifest of its own.

The strata are the plan's shapes: width, height, steps, with or without negative prompt. Each gets
its share of the sample, but at least one picture, so that no class is left untried. With more
classes than places, pictures are drawn without regard to them.

The sampled pictures are those that the run will make: every value that decides one stands in its
row, its seed too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen import manifest
from batchgen.manifest import Picture, ShapeColumns
from batchgen.model import Checkpoint
from batchgen.planning import Plan, make_plan
from batchgen.settings import Job, PictureClass

Ints = npt.NDArray[np.int64]
# What a row of the sample says about its picture; and where the picture stands in the manifest.
_COLUMNS = (
    *("prompt", "negative_prompt", "seed"),
    *("width", "height", "steps", "guidance", "true_cfg"),
)
_ORIGIN = {"row": "of_row", "image": "of_image"}


# Pictures from which schedules are found: so many together, and of each class at least.
OTHERS, OTHERS_OF_CLASS = 36, 4


def sample_manifest(
    files: list[str], job: Job, checkpoint: Checkpoint | None, pictures: int, seed: int
) -> tuple[pa.Table, pa.Table]:
    """Draw a sample of a manifest, all of whose rows are checked: see `draw_sample`.

    :return: the sample, and the pictures from which schedules are found: see `draw_others`.
    """
    with TemporaryDirectory(prefix="batchgen-") as folder:  # a CSV file is converted to Parquet
        plan = make_plan(files, job, checkpoint, Path(folder) / "manifest.parquet")
        sample = draw_sample(plan, job, pictures, seed)
        return sample, draw_others(plan, job, sample, seed)


def draw_others(plan: Plan, job: Job, sample: pa.Table, seed: int) -> pa.Table:
    """Draw pictures of every class of a sample that the sample does not have.

    What is found from them can then be judged by the sample as by pictures never seen. A class all
    of whose pictures are in the sample gives those.
    """
    drawn = draw_sample(plan, job, sample.num_rows + OTHERS, seed + 1)
    places = set(zip(*(sample[name].to_pylist() for name in _ORIGIN.values()), strict=True))
    of_class: dict[PictureClass, list[int]] = defaultdict(list)
    rows = drawn.to_pylist()
    for number in np.random.default_rng(seed).permutation(len(rows)).tolist():
        of_class[class_of(rows[number])].append(number)
    few = max(OTHERS_OF_CLASS, OTHERS // len(of_class))
    chosen = []
    for numbers in of_class.values():
        new = [one for one in numbers if (rows[one]["of_row"], rows[one]["of_image"]) not in places]
        chosen += (new or numbers)[:few]
    return drawn.take(sorted(chosen))


def class_of(row: Mapping[str, Any]) -> PictureClass:
    """The class of a sampled picture."""
    negative = bool(row["negative_prompt"])
    return PictureClass.of(row["width"], row["height"], row["steps"], negative=negative)


def draw_sample(plan: Plan, job: Job, pictures: int, seed: int) -> pa.Table:
    """Draw pictures of a manifest, ordered by shape: a row each, with an `images` of 1.

    :param plan: of the whole manifest, whose files are still where the plan found them. Pictures
        are drawn of its shapes alone.
    :param pictures: how many; all of them, if the manifest has fewer.
    :param seed: another one gives another sample.
    :raises ManifestError: the manifest cannot be read.
    """
    counts = [shape.pictures for shape in plan.shapes]
    drawn = [
        np.sort(np.random.default_rng([seed, *shape[:4]]).choice(shape.pictures, few, False))
        for shape, few in zip(plan.shapes, allot(counts, pictures, seed), strict=True)
    ]
    codes = [_code(shape) for shape in plan.shapes]
    files = [source.path for source in plan.sources]
    blocks = manifest.image_shapes(files, job.sampling, job.manifest.columns)
    places = sorted(_places(blocks, dict(zip(codes, drawn, strict=True))))
    chosen = [_picture(plan, job, row, image) for _, row, image in places]
    columns = {name: [getattr(one, name) for one in chosen] for name in _COLUMNS}
    origin = {name: [getattr(one, field) for one in chosen] for field, name in _ORIGIN.items()}
    return pa.table({**columns, "images": [1] * len(chosen), **origin})


def allot(counts: Sequence[int], places: int, seed: int) -> list[int]:
    """How many places each stratum gets: one at least, and the rest by size.

    With more strata than places it is chance that says which are there, in proportion.

    :param counts: the sizes of the strata; none gets more places than it has pictures.
    """
    places = min(places, sum(counts))
    if len(counts) > places:
        by_chance = np.random.default_rng(seed).multivariate_hypergeometric
        return list(map(int, by_chance(counts, places)))
    exact = np.array(counts) * places / sum(counts)
    allotted = np.ones(len(counts), np.int64)
    for _ in range(places - len(counts)):
        missing = np.where(allotted < counts, exact - allotted, -np.inf)
        allotted[np.argmax(missing)] += 1
    return list(map(int, allotted))


def _code(shape: Sequence[int]) -> int:
    """The number under which `ShapeColumns.codes` knows a plan's shape."""
    width, height, steps, negative = (np.array([value]) for value in shape[:4])
    one = ShapeColumns(width, height, steps, negative.astype(bool), np.ones(1, np.int64))
    return int(one.codes()[0])


def _places(
    blocks: Iterator[ShapeColumns], wanted: dict[int, Ints]
) -> Iterator[tuple[int, int, int]]:
    """Code, row and number in its row of each wanted picture.

    :param blocks: all rows of the manifest, in order.
    :param wanted: code of a shape → sorted numbers of pictures, counted within the shape.
    """
    before = dict.fromkeys(wanted, 0)
    first_row = 0
    for block in blocks:
        codes = block.codes()
        for code in sorted(wanted.keys() & set(np.unique(codes).tolist())):
            rows = np.flatnonzero(codes == code)
            ends = before[code] + np.cumsum(block.images[rows])
            numbers = wanted[code]
            here = numbers[(numbers >= before[code]) & (numbers < ends[-1])]
            which = np.searchsorted(ends, here, side="right")
            images = here - (ends[which] - block.images[rows[which]])
            for row, image in zip(rows[which].tolist(), images.tolist(), strict=True):
                yield code, first_row + row, image
            before[code] = int(ends[-1])
        first_row += len(codes)


def _picture(plan: Plan, job: Job, row: int, image: int) -> Picture:
    rows = manifest.read_rows(plan.sources, row, 1, job.manifest.columns)
    [picture] = manifest.pictures(
        rows, first_row=row, first_key=0, skip=image, count=1, sampling=job.sampling
    )
    return picture
