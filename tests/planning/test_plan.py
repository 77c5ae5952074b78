"""A plan cuts every picture into exactly one shard and one group, and is told from any other."""

import random
import time
import tracemalloc
from itertools import accumulate
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from batchgen.errors import JobError, PlanChanged
from batchgen.manifest import Picture, ShapeColumns
from batchgen.planning.cut import cut_shards, shard_size
from batchgen.planning.estimate import Estimate, estimate_cost
from batchgen.planning.identity import difference, fingerprint, identify_run, refuse_change
from batchgen.planning.plan import Plan, Shape, Shard, groups, plan_order
from batchgen.planning.planner import dry_run
from batchgen.settings.job import Job, load_job, parse_job
from batchgen.settings.section import Section
from tests.support.rehearsal import write_prompts
from tests.support.specimens import picture, planned

Row = tuple[int, int, int, bool, int]  # width, height, steps, negative, images


def shapes_of(rows: list[Row]) -> ShapeColumns:
    width, height, steps, negative, images = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    return ShapeColumns(width, height, steps, negative, images)


def expand(rows: list[Row]) -> list[Picture]:
    """Every picture of the rows, in order of keys."""
    found: list[Picture] = []
    for row, (width, height, steps, negative, images) in enumerate(rows):
        for image in range(images):
            size = {"width": width, "height": height, "steps": steps}
            given = {"row": row, "image": image, "negative_prompt": "x" * negative}
            found.append(picture(len(found), **size, **given))
    return found


def cut(
    rows: list[Row], size: int, batch_size: int, blocks: list[int]
) -> tuple[tuple[Shard, ...], int]:
    ends = list(accumulate(blocks))
    parts = (rows[end - block : end] for block, end in zip(blocks, ends, strict=True))
    return cut_shards(map(shapes_of, parts), size, batch_size)


def random_row(dice: random.Random, most_images: int) -> Row:
    width, height, steps = dice.choice([16, 32]), dice.choice([16, 16384]), dice.choice([1, 1000])
    return width, height, steps, dice.random() < 0.5, dice.randint(1, most_images)


def random_blocks(dice: random.Random, rows: int) -> list[int]:
    cuts = sorted(dice.sample(range(1, rows), dice.randint(0, rows - 1)))
    return [end - begin for begin, end in zip([0, *cuts], [*cuts, rows], strict=True)]


@pytest.mark.parametrize("seed", range(60))
def test_the_cut_equals_really_expanding_and_grouping(seed: int) -> None:
    """For any images a row, any shard size and batch size, and any blocks that rows come in."""
    dice = random.Random(seed)
    most = dice.choice([1, 3, 40])
    rows = [random_row(dice, most) for _ in range(30)]
    size, batch_size = dice.randint(1, 50), dice.randint(1, 9)
    shards, count = cut(rows, size, batch_size, random_blocks(dice, len(rows)))
    everything = expand(rows)
    parts = [everything[at : at + size] for at in range(0, len(everything), size)]
    begins = [part[0] for part in parts]
    assert shards == tuple(
        Shard(first.key, len(part), first.row, first.image)
        for first, part in zip(begins, parts, strict=True)
    )
    assert count == sum(len(list(groups(part, batch_size))) for part in parts)


def test_a_row_of_many_pictures_costs_no_more_than_a_row() -> None:
    """65 million pictures of 8,192 rows: as arrays of pictures they would take gigabytes."""
    rows = 1 << 13
    constant = [np.broadcast_to(np.int64(value), rows) for value in (64, 64, 4, 0, 8000)]
    tracemalloc.start()
    shards, count = cut_shards([ShapeColumns(*constant)], 10_000, 8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (len(shards), count) == (-(-rows * 8000 // 10_000), rows * 1000)
    assert peak < 50e6


def test_groups_stand_in_plan_order_whatever_the_order_of_pictures() -> None:
    large, negative = (32, 16, 4, False, 3), (16, 16, 4, True, 2)
    everything = expand([large, negative, (16, 16, 4, False, 5), (16, 16, 2, False, 1)])
    ordered = list(groups(everything, 2))
    random.Random(0).shuffle(everything)
    assert list(groups(everything, 2)) == ordered
    assert [one for group in ordered for one in group] == sorted(everything, key=plan_order)
    keys = [[one.key for one in group] for group in ordered]
    assert keys == [[10], [5, 6], [7, 8], [9], [3, 4], [0, 1], [2]]


@pytest.mark.parametrize(
    "change", [{"width": 32}, {"height": 32}, {"steps": 5}, {"negative_prompt": "fog"}]
)
def test_a_group_is_cut_where_the_shape_changes(change: dict[str, Any]) -> None:
    assert len(list(groups([picture(0), picture(1, **change)], 8))) == 2


@pytest.mark.parametrize(
    "other", [{"seed": 9}, {"guidance": 1.0}, {"prompt": "a dog"}, {"true_cfg": 2.0}]
)
def test_what_is_no_shape_does_not_cut_a_group(other: dict[str, Any]) -> None:
    assert len(list(groups([picture(0), picture(1, **other)], 8))) == 1


@pytest.mark.parametrize(
    ("pictures", "batch_size", "seconds", "size", "expected"),
    [
        (10**8, 8, 9.0, 1.0, 104),  # 15 minutes
        (10**8, 8, 1e-4, 1e6, 1000),  # 1 GB
        (800, 8, 0.1, 1.0, 104),  # an eighth of a small run
        (5, 8, 0.1, 1.0, 8),  # a group at least
        (10**6, 1024, 3600.0, 1.0, 1024),  # a group at least, however slow
        (10**6, 1, 3600.0, 1.0, 1),
        (10**6, 8, 0.0, 0.0, 125_000),  # an estimate of nothing
    ],
)
def test_a_shard_is_a_quarter_of_an_hour_or_a_gigabyte_or_an_eighth_in_whole_groups(
    pictures: int, batch_size: int, seconds: float, size: float, expected: int
) -> None:
    assert shard_size(pictures, batch_size, Estimate(seconds, size, "")) == expected


def test_the_estimate_is_the_mean_over_all_shapes() -> None:
    engine, pattern = {"kind": "pattern", "batch_size": 4}, {"delay_s": 2.0}
    job = parse_job({"engine": engine, "pattern": pattern, "output": {"format": "png"}}, "")
    cost = estimate_cost([Shape(100, 100, 4, False, 3), Shape(200, 100, 4, False, 1)], job, None)
    assert cost.seconds == pytest.approx(0.504)
    assert cost.bytes == pytest.approx(12_500 * 1.8 + 4096)


def print_of(content: tuple[str, ...] = ("m",), weights: str = "w", **sections: Any) -> str:
    return fingerprint(identify_run(parse_job(sections, ""), content, {"transformer": weights}))


PLACES = {
    *(("model", "path"), ("model", "revision"), ("model", "lora")),
    *(("cache", "trace"), ("cache", "schedule"), ("score", "model")),
}
CLASS = {"pixels": 64, "steps": 2, "negative_prompt": False, "computed": [0]}
OPERATIONS = ("run", "audit", "splits", "pattern")


def settings() -> list[tuple[str, str, Any]]:
    """Every key of a job file, with a value that is not its default."""
    return [
        (section, key, another(section, key, field))
        for section, fields in Job.model_fields.items()
        for key, field in fields.annotation.model_fields.items()
        if (section, key) not in PLACES
    ]


def another(section: str, key: str, field: Any) -> Any:
    """A value the key accepts and does not have by itself."""
    candidates = [*get_args(field.annotation), True, False, 2, 32, 128, 0.5, "other", [1], [CLASS]]
    candidates.append({"prompt": "caption"})
    candidates += [value for candidate in candidates for value in get_args(candidate)]
    return next(
        value for value in candidates if value != field.default and accepts(section, key, value)
    )


def accepts(section: str, key: str, value: Any) -> bool:
    try:
        parse_job({section: {key: value}}, "")
    except JobError:
        return False
    return True


@pytest.mark.parametrize(("section", "key", "value"), settings(), ids=str)
def test_every_setting_is_fingerprinted_but_operations(section: str, key: str, value: Any) -> None:
    assert (print_of(**{section: {key: value}}) == print_of()) == (section in OPERATIONS)


def test_an_audit_takes_time_and_changes_nothing_else_of_a_plan(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"] * 50)
    cached = ["engine.kind=pattern", "cache.policy=multistep", "pattern.delay_s=3000"]
    plain, audited = (
        dry_run([file], load_job(None, [*cached, *audit]), None)
        for audit in ([], ["audit.fraction=0.5", "audit.min_psnr=40"])
    )
    assert audited.seconds == pytest.approx(1.5 * plain.seconds)
    own = {"run": "", "created": "", "seconds": 0.0}
    assert audited.model_copy(update=own) == plain.model_copy(update=own)
    assert len(plain.shards) > 1


def test_the_fingerprint_covers_which_columns_are_read_and_no_more() -> None:
    """Runs of older versions, which asked nothing, go on with `seeds = ""`."""
    assert print_of(manifest={"columns": {"seeds": ""}}) == print_of()
    others = [{"seed": "seeds"}, {"seed": ""}, {"prompt": "caption"}, {}]
    assert len({print_of(manifest={"columns": columns}) for columns in others}) == 4


def test_the_fingerprint_covers_content_and_not_places() -> None:
    lora = {"path": "a", "scale": 0.5}
    elsewhere = {"path": "/elsewhere", "revision": "main", "lora": [lora | {"path": "b"}]}
    assert print_of(model=elsewhere) == print_of(model={"lora": [lora]})
    others = [
        print_of(("n",)),
        print_of(("m", "m")),
        print_of(weights="v"),
        print_of(model={"lora": [lora]}),
        print_of(),
    ]
    assert len(set(others)) == len(others)


def test_the_fingerprint_stays_what_it_was_planned_with() -> None:
    """Plans on disks hold it: another spelling of numbers would refuse every run there is."""
    one = {"b": 1, "a": {"z": [1.5, None, "é"], "y": False}}
    same = {"a": {"y": False, "z": [1.5, None, "é"]}, "b": 1}
    assert fingerprint(one) == fingerprint(same)
    written = "e7e254618d40dbced5b4229207c021806222ebaa4a9bb8336a3d52976e40684f"
    assert fingerprint({"a": 1.5}) == written


def test_a_difference_names_nested_keys_and_both_values() -> None:
    old = {"sampling": {"steps": 4, "width": 64}, "weights": {"vae": "a"}, "manifest": ["x" * 99]}
    new = {
        "sampling": {"steps": 5, "width": 64},
        "weights": {"vae": "a", "unet": "b"},
        "manifest": ["y"],
    }
    long = '["' + "x" * 55 + "…"
    assert difference(old, new) == [
        f'manifest: {long} → ["y"]',
        "sampling.steps: 4 → 5",
        'weights.unet: null → "b"',
    ]


def plan_of(shards: tuple[Shard, ...], **given: Any) -> Plan:
    identity = identify_run(parse_job({}, ""), ["m"], {"vae": "v"})
    usual: dict[str, Any] = {"run": "r", "created": "now", "fingerprint": "f", "manifest": ("m",)}
    usual |= {"sources": (), "shapes": (Shape(64, 64, 4, True, 9),), "shards": shards, "groups": 2}
    usual |= {"rows": 9, "pictures": 9, "over_long": 0, "has_ids": False, "identity": identity}
    usual |= {"seconds": 1.5, "bytes": 3, "speed": "", "software": {"python": "3"}}
    return Plan(**usual | given)


def test_a_changed_input_is_refused_with_the_difference_and_the_remedy() -> None:
    def refuse(**sections: Any) -> None:
        identity = identify_run(parse_job(sections, ""), ["m"], {"vae": "v"})
        refuse_change(plan_of(()), identity, "runs/a")

    refuse(run={"workers": 9})
    with pytest.raises(PlanChanged) as error:
        refuse(sampling={"steps": 5})
    assert "runs/a was planned from other inputs" in str(error.value)
    assert "\n  sampling.steps: 28 → 5\n" in str(error.value)
    assert "--out ANOTHER_FOLDER" in str(error.value)


def test_a_plan_survives_being_written() -> None:
    plan = plan_of((Shard(0, 5, 0, 0), Shard(5, 4, 3, 2)))
    again = Plan.model_validate_json(plan.model_dump_json())
    assert again == plan
    assert (again.shards[1].skip, again.shapes[0].negative) == (2, True)


def test_a_plan_of_a_hundred_thousand_shards_opens_in_seconds() -> None:
    shards = tuple(Shard(n * 1000, 1000, n * 1000, 0) for n in range(100_000))
    text = plan_of(shards).model_dump_json()
    begin = time.process_time()
    plan = Plan.model_validate_json(text)
    assert time.process_time() - begin < 2
    assert len(plan.shards) == 100_000
    assert len(text) < 4e6


def test_a_plan_refuses_what_it_does_not_know() -> None:
    assert issubclass(Plan, Section)
    with pytest.raises(ValueError, match="Extra inputs"):
        plan_of((), prompts=["a cat"])


@pytest.mark.parametrize("size", [4, 2**63 - 1, 10**40])
def test_a_shard_of_more_pictures_than_there_are_holds_all(size: int, tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"] * 4, f"shards.pictures={size}")
    assert run.plan.shards == (Shard(0, 4, 0, 0),)
