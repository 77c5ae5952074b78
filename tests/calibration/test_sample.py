"""The sample holds pictures of the manifest, of every class, as the run would make them."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import manifest
from batchgen.calibration.sample import OTHERS_OF_CLASS, allot, class_of, draw_others, draw_sample
from batchgen.manifest import Picture
from batchgen.planning.plan import Plan
from batchgen.planning.planner import make_plan
from batchgen.settings.job import Job, load_job
from tests.support.rehearsal import write_prompts

JOB = load_job(None, ["engine.kind=pattern", "sampling.seed=7", "sampling.images=2"])


def plan_of(folder: Path, job: Job = JOB) -> Plan:
    """120 rows of two pictures: 100 rows of one shape, 19 with a negative prompt, one large."""
    prompts = [f"a cat on mat {n}" for n in range(120)]
    negative = ["a dog" if n % 6 == 5 and n != 119 else None for n in range(120)]
    file = write_prompts(
        folder / "prompts.parquet",
        prompts,
        id=[f"cat-{n}" for n in range(120)],
        seed=pa.array([n if n % 2 else None for n in range(120)], pa.int64()),
        negative_prompt=negative,
        width=[192 if n == 119 else 128 for n in range(120)],
    )
    return make_plan([file], job, None, folder / "converted.parquet")


def pictures_of(plan: Plan, job: Job, count: int) -> list[Picture]:
    rows = manifest.read_rows(plan.sources, 0, plan.rows, job.manifest.columns)
    return manifest.pictures(
        rows, first_row=0, first_key=0, skip=0, count=count, sampling=job.sampling
    )


def test_every_sampled_picture_is_the_one_that_the_run_would_make(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    sample = draw_sample(plan, JOB, 30, seed=0)
    pq.write_table(sample, tmp_path / "sample.parquet")
    drawn = make_plan([tmp_path / "sample.parquet"], JOB, None, tmp_path / "none.parquet")
    everything = {(one.row, one.image): one for one in pictures_of(plan, JOB, 240)}
    made = pictures_of(drawn, JOB, 30)
    for picture, row in zip(made, sample.to_pylist(), strict=True):
        original = everything[row["of_row"], row["of_image"]]
        names = {"key": 0, "row": 0, "image": 0, "id": "", "extra": ""}
        assert replace(picture, **names) == replace(original, **names)
    assert len({(row["of_row"], row["of_image"]) for row in sample.to_pylist()}) == 30


def test_every_class_has_its_share_and_at_least_one_picture(tmp_path: Path) -> None:
    sample = draw_sample(plan_of(tmp_path), JOB, 30, seed=0).to_pylist()
    classes = Counter((row["width"], bool(row["negative_prompt"])) for row in sample)
    assert classes == {(128, False): 25, (128, True): 4, (192, False): 1}


def test_the_seed_decides_the_sample(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    first, again, other = (draw_sample(plan, JOB, 30, seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first.equals(other)


def test_a_small_manifest_is_taken_whole(tmp_path: Path) -> None:
    sample = draw_sample(plan_of(tmp_path), JOB, 1000, seed=3)
    assert {(row["of_row"], row["of_image"]) for row in sample.to_pylist()} == {
        (row, image) for row in range(120) for image in (0, 1)
    }


@pytest.mark.parametrize(
    ("counts", "places", "expected"),
    [
        ([100], 10, [10]),
        ([60, 30, 10], 10, [6, 3, 1]),
        ([1000, 1, 1], 10, [8, 1, 1]),
        ([2, 2], 10, [2, 2]),
        ([3, 3, 3], 4, [2, 1, 1]),
    ],
)
def test_places_go_to_strata_by_their_size(
    counts: list[int], places: int, expected: list[int]
) -> None:
    assert allot(counts, places, seed=0) == expected


def test_chance_decides_among_more_strata_than_places() -> None:
    counts = [1] * 50 + [50]
    drawn = [allot(counts, 10, seed) for seed in range(40)]
    assert {sum(one) for one in drawn} == {10}
    assert max(max(one[:-1]) for one in drawn) == 1
    of_half = [one[-1] for one in drawn]  # hypergeometric: mean 5, standard deviation 1.5
    assert abs(sum(of_half) / 40 - 5) < 4 * 1.5 / 40**0.5


def test_schedules_are_found_from_other_pictures_of_every_class(tmp_path: Path) -> None:
    """The one picture of the large class is in the sample, so it is taken all the same."""
    plan = plan_of(tmp_path)
    sample = draw_sample(plan, JOB, 30, seed=0)
    others = draw_others(plan, JOB, sample, seed=0)
    assert others.schema == sample.schema
    rows, sampled = others.to_pylist(), sample.to_pylist()
    assert {class_of(row) for row in rows} == {class_of(row) for row in sampled}
    places = {(row["of_row"], row["of_image"]) for row in sampled}
    counts = Counter(class_of(row) for row in rows)
    for row in rows:
        new = (row["of_row"], row["of_image"]) not in places
        assert new or row["width"] == 192
    assert all(count >= OTHERS_OF_CLASS for kind, count in counts.items() if kind.pixels == 2**14)
    assert draw_others(plan, JOB, sample, seed=0).equals(others)
    assert not draw_others(plan, JOB, sample, seed=1).equals(others)
