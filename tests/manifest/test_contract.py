"""Bad rows and bad columns: every message names file, row, column and what is accepted."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import JobError
from batchgen.manifest import Limits, read_rows
from batchgen.model import Guidance
from batchgen.settings import Sampling
from tests.manifest.validation import Parquet, all_pictures, refusal, validate

BAD_VALUES = [
    ("width", pa.array([64, 17]), "17", "multiple of 16 from 16 to 16384"),
    ("width", pa.array([64, 0]), "0", "multiple of 16 from 16 to 16384"),
    ("height", pa.array([64, 16400]), "16400", "multiple of 16 from 16 to 16384"),
    ("height", pa.array([64, -16], pa.int16()), "-16", "multiple of 16 from 16 to 16384"),
    ("steps", pa.array([4, 0]), "0", "1 to 1000"),
    ("steps", pa.array([4, 1001]), "1001", "1 to 1000"),
    ("images", pa.array([1, -1]), "-1", "1 to 100000"),
    ("images", pa.array([1, 100_001]), "100001", "1 to 100000"),
    ("guidance", pa.array([1.0, float("inf")]), "inf", "finite number from 0 to 100"),
    ("true_cfg", pa.array([1.0, -0.5], pa.float32()), "-0.5", "finite number from 0 to 100"),
    ("true_cfg", pa.array([1, 101]), "101", "finite number from 0 to 100"),
    ("seed", pa.array([0, -1]), "-1", "0 to 2^63-1"),
    ("seed", pa.array([0, 2**63], pa.uint64()), "9223372036854775808", "0 to 2^63-1"),
    ("seed", pa.array([0, 2**64 - 1], pa.uint64()), "18446744073709551615", "0 to 2^63-1"),
    ("prompt", pa.array(["a", None]), "is null", "not empty"),
    ("prompt", pa.array(["a", ""]), "is empty", "not empty"),
    ("prompt", pa.array(["a", " \t\n\u00a0"]), "only whitespace", "not empty"),
    ("prompt", pa.array(["a", "b\0c"]), "NUL", "text encoders cannot read"),
    ("prompt", pa.array([b"a", b"\xff\xfe"]).view(pa.string()), "not valid UTF-8", "not empty"),
    (
        "prompt",
        pa.array(["a", "word " * 20_000]),
        "20001 tokens",
        "the limit is 20: shorten it, or --set model.long_prompts=truncate",
    ),
    ("negative_prompt", pa.array(["a", "b\0c"]), "NUL", "text encoders cannot read"),
    (
        "negative_prompt",
        pa.array(["a", "word " * 30]),
        "31 tokens",
        "--set model.max_sequence_length=31",
    ),
    ("id", pa.array(["a", "b\0c"]), "NUL", "text encoders cannot read"),
    ("id", pa.array(["a", "b\nc"]), "control character", "without control characters"),
    ("id", pa.array(["a", "b\u0085c"]), "control character", "without control characters"),
    ("id", pa.array(["a", "x" * 300]), "300 characters", "at most 256 characters"),
    ("id", pa.array([b"a", b"\xff"]).view(pa.string()), "not valid UTF-8", "unique text"),
    (
        "topic",
        pa.array([b"a", b"\xff"]).view(pa.string()),
        "not valid UTF-8",
        "write the column again",
    ),
    (
        "nested",
        pa.StructArray.from_arrays([pa.array([b"a", b"\xff"]).view(pa.string())], ["x"]),
        "not valid UTF-8",
        "again",
    ),
]


@pytest.mark.parametrize(
    ("column", "values", "found", "accepted"),
    BAD_VALUES,
    ids=[f"{c} {f}" for c, _, f, _ in BAD_VALUES],
)
def test_a_bad_value_is_refused_by_file_row_column_and_what_is_accepted(
    parquet: Parquet, column: str, values: pa.Array, found: str, accepted: str
) -> None:
    file = parquet(**{column: values})
    message = refusal(file)
    assert message.startswith(f"row 1 of {file}, column {column}: ")
    assert found in message
    assert accepted in message
    assert len(message) < 500


@pytest.mark.parametrize(
    ("column", "values", "found", "expected"),
    [
        ("prompt", [1, 2], "int64", "a string type"),
        ("prompt", pa.nulls(2), "null", "a string type"),
        ("prompt", [b"a", b"b"], "binary", "a string type"),
        ("id", [True, False], "bool", "a string type"),
        ("seed", ["1", "2"], "string", "an integer type"),
        ("images", [True, False], "bool", "an integer type"),
        ("guidance", ["1", "2"], "string", "a float or integer type"),
    ],
)
def test_a_column_of_another_type_is_refused(
    parquet: Parquet, column: str, values: Any, found: str, expected: str
) -> None:
    file = parquet(**{column: values})
    message = refusal(file)
    assert f"{file}, column {column}: found type {found}, expected {expected}" in message


def test_a_manifest_without_prompts_is_refused_with_the_columns_it_has(tmp_path: Path) -> None:
    pa.parquet.write_table(pa.table({"text": ["a"], "seed": [1]}), tmp_path / "p.parquet")
    message = refusal(tmp_path / "p.parquet")
    assert "p.parquet: no column prompt (string)" in message
    assert "Columns found: text, seed" in message


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pa.parquet.write_table(table, tmp_path / "p.parquet")
    assert "p.parquet, column prompt: stands twice" in refusal(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    "prompts",
    [
        pa.array(["a", "b"], pa.large_string()),
        pa.array(["a", "b"], pa.string_view()),
        pa.array(["a", "b"]).dictionary_encode(),
        pa.array(["a", "b"], pa.large_string()).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_every_string_type_of_arrow_is_a_prompt(parquet: Parquet, prompts: pa.Array) -> None:
    made = all_pictures(parquet(prompt=prompts))
    assert [p.prompt for p in made] == ["a", "b"]


@pytest.mark.parametrize(
    "type_", [pa.int8(), pa.uint8(), pa.int32(), pa.uint64(), pa.int64()], ids=str
)
def test_every_integer_type_counts_images(parquet: Parquet, type_: pa.DataType) -> None:
    assert validate(parquet(images=pa.array([1, None, 3], type_))).pictures == 5


def test_emoji_and_right_to_left_text_are_prompts(parquet: Parquet) -> None:
    texts = ["👩\u200d🚀 on 🌙", "كلب أحمر", "\u202eסוס כחול", "赤い犬"]
    made = all_pictures(parquet(prompt=texts))
    assert [p.prompt for p in made] == texts


def test_ids_that_look_like_paths_simply_travel(parquet: Parquet) -> None:
    ids = ["../../x", "a.b", "/etc/passwd", "CON", " ", "x" * 256, "🙂" * 256]
    made = all_pictures(parquet(id=ids))
    assert [p.id for p in made] == ids


def test_null_means_the_jobs_default_and_an_empty_negative_prompt_means_none(
    parquet: Parquet,
) -> None:
    nulls = {
        name: pa.nulls(2)
        for name in ("id", "seed", "width", "height", "steps", "guidance", "true_cfg", "images")
    }
    job = Sampling(
        width=64, height=32, steps=3, guidance=2.0, true_cfg=4.0, images=2, negative_prompt="blurry"
    )
    file = parquet(negative_prompt=[None, ""], **nulls)
    shapes = validate(file, sampling=job).shapes
    assert shapes == {(64, 32, 3, False): 2, (64, 32, 3, True): 2}
    one = all_pictures(file, sampling=job)[0]
    assert (one.width, one.height, one.steps) == (64, 32, 3)
    assert (one.guidance, one.true_cfg) == (2.0, 4.0)
    assert (one.id, one.negative_prompt) == ("", "blurry")


def test_a_model_may_ask_for_larger_multiples(parquet: Parquet) -> None:
    assert "column width: 48; expected px, a multiple of 32 from" in refusal(
        parquet(width=[48]), limits=Limits(32)
    )
    assert validate(parquet(width=pa.array([None, 64], pa.int64())), limits=Limits(32)).rows == 2
    with pytest.raises(
        JobError, match=r"sampling.width: 48; expected px, a multiple of 32 from 32"
    ):
        validate(parquet(), sampling=Sampling(width=48), limits=Limits(32))


def test_a_model_may_make_no_larger_pictures(parquet: Parquet) -> None:
    small = Limits(most_px=208)
    assert "row 1 of" in (
        told := refusal(parquet(height=[208, 224]), sampling=Sampling(width=208), limits=small)
    )
    assert "column height: 224; expected px, a multiple of 16 from 16 to 208 for this model" in told
    # No row takes the job's size, which is too large.
    assert validate(parquet(height=[208], width=[16]), limits=small).rows == 1
    told = r"sampling.width: 1024; expected px, .* to 208 for this model\nsampling.height: 1024; "
    with pytest.raises(JobError, match=told):
        validate(parquet(), limits=small)


def test_a_row_without_a_size_takes_the_jobs_and_is_told_if_that_is_wrong(parquet: Parquet) -> None:
    told = refusal(
        parquet(width=pa.array([64, None], pa.int64()), height=[64, 64]), limits=Limits(most_px=208)
    )
    assert "row 1 of" in told
    assert "column width: null, and sampling.width = 1024; expected px" in told


def test_a_true_cfg_over_1_is_refused_where_it_has_no_meaning(parquet: Parquet) -> None:
    values = pa.array([0.5, None, 1.0, 1.5])
    assert validate(parquet(true_cfg=values)).rows == 4
    told = refusal(
        parquet(true_cfg=values), limits=Limits(guidance=Guidance(embedded=False, contrasts=True))
    )
    assert "row 3 of" in told
    assert "column true_cfg: 1.5; this family has one guidance scale: give it as guidance" in told


def test_files_must_agree_on_types(parquet: Parquet) -> None:
    one, two = parquet("a.parquet", score=[1]), parquet("b.parquet", score=[1.5])
    assert f"{two}, column score: type double, but int64 in {one}" in refusal(one, two)


@pytest.mark.parametrize("column", ["seed", "topic"])
def test_files_must_have_the_same_columns(parquet: Parquet, column: str) -> None:
    one, two = parquet("a.parquet", **{column: pa.nulls(1)}), parquet("b.parquet")
    assert f"{two}, column {column}: missing, but {one} has it" in refusal(one, two)
    assert f"{two}, column {column}: missing, but {one} has it" in refusal(two, one)


def test_encodings_and_column_order_may_differ_between_files(parquet: Parquet) -> None:
    one = parquet("a.parquet", seed=pa.array([1], pa.uint8()), topic=["x"])
    two = parquet(
        "b.parquet", topic=pa.array(["y"], pa.large_string()).dictionary_encode(), seed=[2]
    )
    made = all_pictures(one, two)
    assert [(p.seed, p.extra) for p in made] == [(1, '{"topic":"x"}'), (2, '{"topic":"y"}')]


FLOATS = [
    (pa.array([7.0, math.nan, None]), 7),
    (pa.array([7.0, math.nan, None], pa.float32()), 7),
    (pa.array([7.0, math.nan, None], pa.float16()), 7),
    (pa.array([2.0**53 - 1, math.nan, None]), 2**53 - 1),
]


@pytest.mark.parametrize(("values", "seed"), FLOATS, ids=[str(v.type) for v, _ in FLOATS])
def test_whole_numbers_in_floats_are_integers_and_nan_is_null(
    parquet: Parquet, values: pa.Array, seed: int
) -> None:
    """pandas makes floats of integers with gaps."""
    one, two, three = all_pictures(parquet(seed=values))
    hashed = [p.seed for p in all_pictures(parquet(seed=pa.nulls(3)))]
    assert [one.seed, two.seed, three.seed] == [seed, *hashed[1:]]


def test_nan_takes_the_jobs_value_in_every_column_of_numbers(parquet: Parquet) -> None:
    names = ("width", "height", "steps", "guidance", "true_cfg", "images")
    nan = parquet(**{name: [math.nan] for name in names})
    job = Sampling(width=64, height=32, steps=3, guidance=2, true_cfg=4, images=2)
    made = all_pictures(nan, sampling=job)
    assert len(made) == 2
    assert (made[0].width, made[0].steps, made[0].guidance, made[0].true_cfg) == (64, 3, 2, 4)


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (pa.float64(), 7.5),
        (pa.float64(), math.inf),
        (pa.float64(), 2.0**53),
        (pa.float64(), 1.8e19),
        (pa.float64(), -1.0),
        (pa.float32(), 2.0**24),
        (pa.float16(), 2.0**11),
    ],
)
def test_a_float_that_is_no_exact_integer_is_refused_with_its_row(
    parquet: Parquet, type_: pa.DataType, value: float
) -> None:
    file = parquet(seed=pa.array([1.0, value], type_))
    message = refusal(file)
    assert message.startswith(f"row 1 of {file}, column seed: {value}; expected an integer from 0")
    assert ("write it as integers" in message) == (value > 1000 and value < math.inf)


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        (pa.array([5, 6]), ["5", "6"]),
        (pa.array([5, 2**64 - 1], pa.uint64()), ["5", str(2**64 - 1)]),
        (pa.array([5.0, math.nan]), ["5", ""]),
    ],
)
def test_ids_of_numbers_become_text(parquet: Parquet, ids: pa.Array, texts: list[str]) -> None:
    assert [p.id for p in all_pictures(parquet(id=ids))] == texts


def test_equal_ids_of_numbers_are_refused(parquet: Parquet) -> None:
    assert "'5' is also the id of row 0" in refusal(parquet(id=[5, 5]))


def test_a_numeric_id_gives_the_seed_of_its_text(parquet: Parquet) -> None:
    (number,), (text,) = (all_pictures(parquet(id=ids)) for ids in ([5], ["5"]))
    assert number.seed == text.seed


def test_a_column_without_values_in_one_file_has_the_type_of_the_others(parquet: Parquet) -> None:
    files = [
        parquet("a.parquet", score=pa.nulls(1)),
        parquet("b.parquet", score=[5]),
        parquet("c.parquet", score=pa.nulls(1)),
    ]
    sources = validate(*files).sources
    for first, rows in ((0, 1), (0, 3), (1, 2), (2, 1)):
        travelling = read_rows(sources, first, rows).travelling
        assert travelling.schema.field("score").type == pa.int64()
    assert [p.extra for p in all_pictures(*files)] == [
        '{"score":null}',
        '{"score":5}',
        '{"score":null}',
    ]


@pytest.mark.parametrize(
    ("empty", "full"),
    [
        (pa.array([[]], pa.list_(pa.null())), pa.array([["x"]])),
        (pa.array([{"a": None}]), pa.array([{"a": [1]}])),
        (pa.array([[{"a": None}]]), pa.array([[{"a": 0.5}]])),
    ],
)
def test_lists_and_structs_without_values_in_one_file_have_the_type_of_the_others(
    parquet: Parquet, empty: pa.Array, full: pa.Array
) -> None:
    files = [parquet("a.parquet", tags=empty), parquet("b.parquet", tags=full)]
    sources = validate(*files).sources
    for first in (0, 1):
        assert read_rows(sources, first, 1).travelling.schema.field("tags").type == full.type
    made = [json.loads(p.extra)["tags"] for p in all_pictures(*files)]
    assert made == [empty[0].as_py(), full[0].as_py()]
    other = parquet("c.parquet", tags=pa.array([{"b": 1}]))
    assert "column tags: type struct<b: int64>, but " in refusal(*files, other)


def test_a_column_without_values_anywhere_stays_so(parquet: Parquet) -> None:
    files = [parquet("a.parquet", score=pa.nulls(1)), parquet("b.parquet", score=pa.nulls(1))]
    assert [p.extra for p in all_pictures(*files)] == ['{"score":null}'] * 2


def test_types_must_agree_beside_a_file_without_values(parquet: Parquet) -> None:
    files = [
        parquet("a.parquet", score=pa.nulls(1)),
        parquet("b.parquet", score=[5]),
        parquet("c.parquet", score=["x"]),
    ]
    assert f"{files[2]}, column score: type string, but int64 in {files[1]}" in refusal(*files)
