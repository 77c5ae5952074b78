"""Values that change no picture are counted: those of rows, and those that rows take of the job."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import JobError
from batchgen.manifest import Effects, Limits
from batchgen.model import Guidance
from batchgen.settings import Sampling
from tests.manifest.validation import Parquet, validate

DEV, SCHNELL = Guidance(embedded=True, contrasts=False), Guidance(embedded=False, contrasts=False)
SD3 = Guidance(embedded=False, contrasts=True)


def counted(guidance: Guidance | None, columns: Mapping[str, Any], **sampling: Any) -> Effects:
    effects = Effects(Sampling(**sampling), guidance)
    batch = pa.RecordBatch.from_pydict(dict(columns))
    for _ in range(2):
        effects.count(batch, {name: name for name in columns})
    return effects


def idle(guidance: Guidance | None, columns: Mapping[str, Any], **sampling: Any) -> dict[str, int]:
    found = counted(guidance, columns, **sampling).idle
    return {name: rows // 2 for name, rows in found.items() if rows}


ROWS = {
    "negative_prompt": ["grey", "", None, "grey"],
    "true_cfg": [4.0, 4.0, 1.0, 0.5],
    "guidance": [3.5, None, 0.0, 0.5],
}


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (DEV, {"true_cfg": 2, "negative_prompt": 1}),
        (SCHNELL, {"true_cfg": 2, "negative_prompt": 1, "guidance": 2}),
        (SD3, {"true_cfg": 3, "negative_prompt": 1, "guidance": 1}),
        (None, {}),
    ],
)
def test_values_of_rows_that_change_nothing_are_counted(
    guidance: Guidance | None, expected: dict[str, int]
) -> None:
    assert idle(guidance, ROWS) == expected


def test_the_jobs_value_may_make_a_rows_value_act_or_not() -> None:
    negatives = {"negative_prompt": ["grey", "grey"]}
    assert idle(DEV, negatives) == {"negative_prompt": 2}
    assert not idle(DEV, negatives, true_cfg=4.0)
    scales = {"true_cfg": pa.array([4.0, None])}
    assert idle(DEV, scales) == {"true_cfg": 1}
    assert not idle(DEV, scales, negative_prompt="grey")


def test_rows_that_take_the_jobs_value_are_counted_and_those_in_which_it_changes_nothing() -> None:
    found = counted(DEV, ROWS, negative_prompt="dull", true_cfg=3.0)
    assert (found.from_job["width"], found.from_job["negative_prompt"]) == (8, 2)
    assert found.from_job["true_cfg"] == 0
    assert (found.idle_from_job["negative_prompt"], found.idle_from_job["true_cfg"]) == (2, 0)


def test_columns_of_any_accepted_type_are_counted() -> None:
    columns = {
        "negative_prompt": pa.array(["grey", ""]).dictionary_encode(),
        "true_cfg": pa.array([float("nan"), 4.0], pa.float32()),
        "guidance": pa.array([3, 3], pa.int8()),
    }
    assert idle(SCHNELL, columns) == {"negative_prompt": 1, "true_cfg": 1, "guidance": 2}


def test_validation_counts_them_under_the_columns_of_the_contract(parquet: Parquet) -> None:
    valid = validate(parquet(scale=[3.5, 3.5]), limits=Limits(guidance=SCHNELL))
    assert not valid.effects.idle["guidance"]
    valid = validate(parquet(guidance=[3.5, 0.0]), limits=Limits(guidance=SCHNELL))
    assert valid.effects.idle["guidance"] == 1


@pytest.mark.parametrize(
    ("sampling", "told"),
    [
        ({"negative_prompt": "x " * 24}, r"sampling\.negative_prompt: 25 tokens, the limit is 20"),
        ({"negative_prompt": "a\0b"}, r"sampling\.negative_prompt: 'a\\x00b' holds a NUL char"),
        ({"true_cfg": 2.0}, r"sampling\.true_cfg: 2\.0; this family has one guidance scale"),
        ({"width": 1040}, r"sampling\.width: 1040; expected px, .* to 1024 for this model"),
    ],
)
def test_a_value_of_the_job_passes_every_check_of_its_column(
    parquet: Parquet, sampling: dict[str, Any], told: str
) -> None:
    limits = Limits(most_px=1024, guidance=SD3)
    with pytest.raises(JobError, match=told):
        validate(parquet(id=["a"]), sampling=Sampling(**sampling), limits=limits)


def test_the_jobs_negative_prompt_is_checked_where_some_rows_have_their_own(
    parquet: Parquet,
) -> None:
    file = parquet(negative_prompt=["grey", None])
    with pytest.raises(JobError, match="25 tokens"):
        validate(file, sampling=Sampling(negative_prompt="x " * 24))


def test_the_jobs_negative_prompt_is_counted_among_those_that_are_cut(parquet: Parquet) -> None:
    sampling = Sampling(negative_prompt="x " * 24)
    assert validate(parquet(id=["a"]), sampling=sampling, long_prompts="truncate").over_long == 1
