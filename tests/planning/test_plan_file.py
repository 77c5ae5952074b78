"""plan.json is believed only if nothing in it was changed and its numbers fit together."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.checked_json import seal, unseal
from batchgen.errors import DamagedRun
from batchgen.planning.plan import Plan, Shard
from batchgen.planning.plan_file import contradictions, decode_plan, encode_plan
from tests.support.specimens import planned

# Seven pictures of three rows in two shards: (0, 4, row 0, 0), (4, 3, row 2, skipping 1).
PROMPTS, IMAGES = ["a cat", "a dog", "a fox"], [2, 1, 4]


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return planned(tmp_path_factory.mktemp("plan"), PROMPTS, images=IMAGES).plan


def decode(values: dict[str, Any]) -> Plan:
    return decode_plan(json.dumps(values).encode(), "plan.json")


def places(value: Any, *at: Any) -> Iterator[tuple[Any, ...]]:
    """The keys on the way to every number, text and truth of a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, *at, key)
    else:
        yield at


def changed(values: dict[str, Any], at: tuple[Any, ...]) -> dict[str, Any]:
    """The same with another value at one place."""
    copy = json.loads(json.dumps(values))
    inner = copy
    for key in at[:-1]:
        inner = inner[key]
    old = inner[at[-1]]
    inner[at[-1]] = f"{old}x" if isinstance(old, str) else 7 if old is None else old + 1
    return dict(copy)


def test_a_plan_is_read_as_it_was_written(plan: Plan) -> None:
    assert decode_plan(encode_plan(plan), "plan.json") == plan
    assert plan.shards == (Shard(0, 4, 0, 0), Shard(4, 3, 2, 1))


def test_a_plan_may_be_laid_out_anew(plan: Plan) -> None:
    text = json.dumps(json.loads(encode_plan(plan)), indent=4, sort_keys=True)
    assert decode_plan(text.encode(), "plan.json") == plan


def test_any_change_is_noticed(plan: Plan) -> None:
    """Every single value of the file."""
    values = json.loads(encode_plan(plan))
    everywhere = list(places(values))
    assert len(everywhere) > 60
    for at in everywhere:
        with pytest.raises(DamagedRun, match=r"plan\.json: (not the plan|written by another)"):
            decode(changed(values, at))


def test_the_message_says_what_to_do(plan: Plan) -> None:
    values = json.loads(encode_plan(plan)) | {"pictures": 8}
    remedy = r"Put the file back from a copy, .*batchgen submit MANIFEST --out ANOTHER_FOLDER"
    with pytest.raises(DamagedRun, match=f"does not have the checksum.*{remedy}"):
        decode(values)


@pytest.mark.parametrize("text", [b"", b"\0" * 99, b"[]", b"null", b"{}", b"\xff", b"[" * 10**5])
def test_what_is_no_plan_is_told(text: bytes) -> None:
    with pytest.raises(DamagedRun, match=r"plan\.json: "):
        decode_plan(text, "plan.json")


def test_a_plan_without_a_checksum_was_written_by_an_older_version_and_is_read(plan: Plan) -> None:
    assert decode(unseal(encode_plan(plan))) == plan


def without_checksum(plan: Plan, **given: Any) -> list[str]:
    return list(contradictions(plan.model_copy(update=given)))


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("field", ["first_key", "pictures", "row", "skip"])
@pytest.mark.parametrize("by", [-3, -1, 1, 3])
def test_also_without_a_checksum_no_number_of_a_shard_can_be_another(
    plan: Plan, number: int, field: str, by: int
) -> None:
    """Except where the rows' numbers of pictures would allow it: only the manifest knows those."""
    shards = list(plan.shards)
    shards[number] = shards[number]._replace(**{field: getattr(shards[number], field) + by})
    possible = shards in (
        [Shard(0, 4, 0, 0), Shard(4, 3, 1, 1)],  # three pictures of row 0, three of row 1
        [Shard(0, 4, 0, 0), Shard(4, 3, 2, 0)],
        [Shard(0, 4, 0, 0), Shard(4, 3, 2, 2)],
    )
    assert bool(without_checksum(plan, shards=tuple(shards))) != possible


def test_of_rows_with_one_picture_each_no_shard_can_begin_elsewhere(tmp_path: Path) -> None:
    plan = planned(tmp_path, ["a cat"] * 10).plan
    for number in range(3):
        for row in range(10):
            shards = list(plan.shards)
            shards[number] = shards[number]._replace(row=row)
            if tuple(shards) != plan.shards:
                assert without_checksum(plan, shards=tuple(shards))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"shards": (Shard(0, 4, 0, 0),)}, "shard 0 ends before picture 4, and the next"),
        ({"shards": ()}, "no shards"),
        ({"pictures": 8}, "do not have 8 pictures together"),
        ({"rows": 4}, "do not have 4 rows together"),
        ({"groups": 1}, "1 group cannot be in 2 shards"),
        ({"fingerprint": "0" * 64}, "fingerprint is not that of its identity"),
    ],
)
def test_also_without_a_checksum_the_numbers_of_a_plan_must_fit_together(
    plan: Plan, given: dict[str, Any], told: str
) -> None:
    assert any(told in wrong for wrong in without_checksum(plan, **given))


def test_a_sealed_object_is_its_own_and_no_other() -> None:
    values = {"a": [1, 2.5, "ü", None], "b": {"c": True}}
    assert unseal(seal(values)) == values
    with pytest.raises(ValueError, match="checksum"):
        unseal(seal(values).replace(b"2.5", b"2.6"))
