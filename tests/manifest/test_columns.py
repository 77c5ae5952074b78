"""Which columns are read, which travel along, and which are asked about."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.errors import JobError
from tests.manifest.validation import Parquet, Write, all_pictures, refusal, validate


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("seeds", "seed"),
        ("Seed", "seed"),
        (" seed", "seed"),
        ("random_seed", "seed"),
        ("Width", "width"),
        ("heigth", "height"),
        ("hight", "height"),
        ("num_inference_steps", "steps"),
        ("step", "steps"),
        ("guidance_scale", "guidance"),
        ("guidence", "guidance"),
        ("true_cfg_scale", "true_cfg"),
        ("num_images", "images"),
        ("num_images_per_prompt", "images"),
        ("negativePrompt", "negative_prompt"),
        ("negative prompt", "negative_prompt"),
        ("ID", "id"),
        ("\ufeffid", "id"),
    ],
)
def test_a_name_that_nearly_is_a_column_of_ours_is_asked_about(
    parquet: Parquet, column: str, meant: str
) -> None:
    message = refusal(parquet(**{column: [1]}))
    assert f"did you mean {meant}? --column " in message
    assert message.endswith(" to let it travel")


def test_the_question_names_both_answers_to_type(parquet: Parquet) -> None:
    file = parquet(seeds=[1])
    assert refusal(file) == (
        f"{file}, column seeds: did you mean seed? "
        "--column seed=seeds, or --column seeds= to let it travel"
    )


@pytest.mark.parametrize("column", ["size", "resolution", "cfg_scale"])
def test_a_name_that_may_mean_two_columns_is_asked_about_with_both(
    parquet: Parquet, column: str
) -> None:
    one, two = ("guidance", "true_cfg") if column == "cfg_scale" else ("width", "height")
    assert f"did you mean {one} or {two}? --column {one}={column}, or --column {two}={column}" in (
        refusal(parquet(**{column: [1]}))
    )


def test_all_near_misses_are_asked_about_at_once(parquet: Parquet) -> None:
    message = refusal(parquet(seeds=[1], Width=[64]))
    assert "column seeds: did you mean seed?" in message
    assert "column Width: did you mean width?" in message


@pytest.mark.parametrize("column", ["text", "caption", "Prompt", "prompt ", "prompts"])
def test_a_missing_prompt_is_asked_about_by_the_names_that_people_use(
    tmp_path: Path, column: str
) -> None:
    message = refusal(table(tmp_path / "p.parquet", **{column: ["a"]}))
    assert "no column prompt (string), the one that is required" in message
    assert "did you mean prompt? --column " in message


@pytest.mark.parametrize(
    "column", ["image", "weight", "topic", "scene_seed", "score", "w", "style", "index", "label"]
)
def test_other_names_travel_without_a_question(parquet: Parquet, column: str) -> None:
    assert list(validate(parquet(**{column: [1]})).columns.travelling) == [column]


def test_names_are_no_question_where_the_column_itself_is_there(parquet: Parquet) -> None:
    file = parquet(caption=["x"], seed=[1], seeds=[2])
    columns = validate(file).columns
    assert columns.used == {"prompt": "prompt", "seed": "seed"}
    assert list(columns.travelling) == ["caption", "seeds"]


def test_a_column_is_read_under_another_name(tmp_path: Path) -> None:
    file = table(tmp_path / "p.parquet", caption=["a"], seeds=[5], topic=["x"])
    (made,) = all_pictures(file, mapping={"prompt": "caption", "seed": "seeds"})
    assert (made.prompt, made.seed, made.extra) == ("a", 5, '{"topic":"x"}')


def test_a_column_of_our_name_travels_where_another_is_read_for_it(tmp_path: Path) -> None:
    file = table(tmp_path / "p.parquet", caption=["a"], prompt=["b"])
    (made,) = all_pictures(file, mapping={"prompt": "caption"})
    assert (made.prompt, made.extra) == ("a", '{"prompt":"b"}')


def test_a_near_miss_travels_once_that_is_said(parquet: Parquet) -> None:
    (made,) = all_pictures(parquet(seeds=[5]), mapping={"seeds": ""})
    assert made.extra == '{"seeds":5}'


def test_a_column_of_our_name_is_not_read_if_that_is_said(parquet: Parquet) -> None:
    (made,) = all_pictures(parquet(seed=[5]), mapping={"seed": ""})
    assert made.seed != 5
    assert made.extra == '{"seed":5}'


def test_one_column_is_read_as_two(parquet: Parquet) -> None:
    (made,) = all_pictures(parquet(size=[64]), mapping={"width": "size", "height": "size"})
    assert (made.width, made.height, made.extra) == (64, 64, "{}")


def test_csv_is_parsed_under_other_names(write: Write) -> None:
    file = write("p.csv", "caption,seeds\na,7\nb,x\n")
    mapping = {"prompt": "caption", "seed": "seeds"}
    assert f"row 1 of {file}, column seeds (read as seed): 'x'; expected an integer" in refusal(
        file, mapping=mapping
    )


def test_json_lines_are_read_under_other_names(write: Write) -> None:
    file = write("p.jsonl", '{"caption": "a", "seeds": 7.0}\n')
    (made,) = all_pictures(file, mapping={"prompt": "caption", "seed": "seeds"})
    assert (made.prompt, made.seed) == ("a", 7)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"prompt": "captoin"}, "has no column captoin. Columns found: prompt"),
        ({"seeds": ""}, "has no column seeds. Columns found: prompt"),
        ({"colour": "prompt"}, "colour is no column that batchgen reads; expected COLUMN=YOURS"),
    ],
)
def test_a_mapping_that_cannot_act_is_refused(
    parquet: Parquet, mapping: dict[str, str], message: str
) -> None:
    with pytest.raises(JobError, match=message):
        validate(parquet(), mapping=mapping)


def test_a_column_that_is_read_under_another_name_must_have_the_type(parquet: Parquet) -> None:
    file = parquet(seeds=["x"])
    assert f"{file}, column seeds (read as seed): found type string, expected an integer" in (
        refusal(file, mapping={"seed": "seeds"})
    )


def test_a_column_of_our_name_and_another_type_may_travel(parquet: Parquet) -> None:
    """Data sets with pictures call them `images`."""
    file = parquet(images=[[b"x"]])
    assert refusal(file).endswith("; --column images= lets it travel along")
    (made,) = all_pictures(file, mapping={"images": ""})
    assert made.extra == '{"images":["eA=="]}'


def test_control_characters_of_names_are_shown_escaped(parquet: Parquet) -> None:
    message = refusal(parquet(**{"seed\x1b\n": [1]}))
    assert "column seed\\x1b\\n: did you mean seed?" in message
    assert "\x1b" not in message


def test_few_of_many_columns_are_listed(tmp_path: Path) -> None:
    file = table(tmp_path / "p.parquet", **{f"c{i}": [1] for i in range(500)})
    message = refusal(file)
    assert "c0, c1, c2" in message
    assert "and 480 more" in message
    assert len(message) < 400
