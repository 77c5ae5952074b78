"""The pass as a whole: what it counts, that it counts all problems, and that it streams."""

import hashlib
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.manifest import image_shapes
from batchgen.manifest.problems import SHOWN
from batchgen.settings import Sampling
from tests.manifest.validation import Parquet, refusal, validate


def test_rows_pictures_and_shapes_are_counted(parquet: Parquet) -> None:
    one = parquet("a.parquet", width=[64, 128], images=[2, 1], negative_prompt=["no", None])
    two = parquet("b.parquet", width=[64], images=[3], negative_prompt=["no"])
    found = validate(one, two, sampling=Sampling(height=32, steps=5))
    assert (found.rows, found.pictures, found.has_ids) == (3, 6, False)
    assert found.shapes == {(64, 32, 5, True): 5, (128, 32, 5, False): 1}


def test_a_source_is_identified_by_its_bytes(parquet: Parquet) -> None:
    file = parquet(prompt=["a", "b"])
    (source,) = validate(file).sources
    assert (source.path, source.rows, source.bytes) == (str(file), 2, file.stat().st_size)
    assert source.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_shapes_of_all_rows_come_in_order(parquet: Parquet) -> None:
    one = parquet("a.parquet", width=[64, 128], images=[2, 1])
    two = parquet("b.parquet", width=[32], images=pa.array([None], pa.int64()))
    batches = list(image_shapes([one, two], Sampling(height=48, steps=7, negative_prompt="x")))
    rows = [
        tuple(map(int, row))
        for b in batches
        for row in zip(b.width, b.height, b.steps, b.has_negative, b.images, strict=True)
    ]
    assert rows == [(64, 48, 7, 1, 2), (128, 48, 7, 1, 1), (32, 48, 7, 1, 1)]


def test_the_shapes_of_a_manifest_of_prompts_alone_are_the_jobs(parquet: Parquet) -> None:
    (batch,) = image_shapes([parquet(prompt=["a", "b"])], Sampling(images=3))
    assert (batch.width.tolist(), batch.images.tolist(), batch.has_negative.tolist()) == (
        [1024, 1024],
        [3, 3],
        [False, False],
    )


def test_all_problems_are_counted_and_the_first_ten_shown(parquet: Parquet) -> None:
    file = parquet(prompt=["a", ""] * 20, steps=[0] + [1] * 39, options={"row_group_size": 8})
    message = refusal(file)
    assert message.startswith(
        "21 problems in the manifest, the first 10 (rows are counted from 0 within their file, "
    )
    lines = message.splitlines()[1:]
    assert len(lines) == SHOWN
    assert "row 0 of" in lines[0]
    assert "column steps" in lines[0]
    for row, line in zip(range(1, 19, 2), lines[1:], strict=True):
        assert f"row {row} of" in line


def test_rows_are_counted_within_their_file(parquet: Parquet) -> None:
    one, two = parquet("a.parquet", prompt=["a", "b", "c"]), parquet("b.parquet", prompt=["d", ""])
    message = refusal(one, two)
    assert message.startswith(f"row 1 of {two}, column prompt: is empty")
    assert "(rows are counted from 0 within their file, without headers" in message


def test_truncation_by_consent_is_counted(parquet: Parquet) -> None:
    file = parquet(prompt=["word " * 30, "short", "word " * 40])
    assert validate(file, long_prompts="truncate").over_long == 2


def tokenized(file: Path) -> list[str]:
    """The texts that are tokenized when a file is validated with a limit of 20 tokens."""
    texts: list[str] = []
    validate(file, count_tokens=lambda text: len(texts.append(text) or ""))
    return texts


def test_only_prompts_whose_bytes_leave_doubt_are_tokenized(parquet: Parquet) -> None:
    file = parquet(prompt=["x" * 18, "x" * 19, "é" * 9, "é" * 10])
    assert tokenized(file) == ["x" * 19, "é" * 10]


def test_a_prompt_that_unicode_normalisation_lengthens_is_tokenized(parquet: Parquet) -> None:
    """T5's NFKC makes 18 characters of this one, whose UTF-8 has 3 bytes."""
    assert tokenized(parquet(prompt=["\ufdfa" * 2])) == ["\ufdfa" * 2]


def test_equal_ids_are_refused_with_both_rows(parquet: Parquet) -> None:
    file = parquet(id=["a", "b", "a"])
    expected = f"row 2 of {file}, column id: 'a' is also the id of row 0 of {file}; ids must be"
    assert refusal(file).startswith(expected)


def test_equal_ids_in_different_files_are_refused(parquet: Parquet) -> None:
    one, two = parquet("a.parquet", id=["a", "b"]), parquet("b.parquet", id=["c", "b"])
    assert f"row 1 of {two}, column id: 'b' is also the id of row 1 of {one}" in refusal(one, two)


def test_absent_ids_are_not_equal(parquet: Parquet) -> None:
    assert validate(parquet(id=[None, "", None, "", "a"])).has_ids


def test_every_repetition_is_counted_even_beyond_those_remembered(
    parquet: Parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.manifest.duplicates._REMEMBERED", 3)
    assert refusal(parquet(id=[str(i % 8) for i in range(24)])).startswith("16 problems")


def test_ids_whose_hashes_collide_are_not_equal(
    parquet: Parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.manifest.duplicates.hash", lambda text: 7, raising=False)
    assert validate(parquet(id=["a", "b", "c"])).rows == 3


def test_more_pictures_than_keys_are_refused(parquet: Parquet) -> None:
    assert "1,000,100,000 pictures, a run holds at most 1,000,000,000" in refusal(
        parquet(images=[100_000] * 10_001)
    )


@pytest.fixture
def million(tmp_path: Path) -> Path:
    """A million rows, 120 MB of prompts and ids in one row group."""
    file = tmp_path / "million.parquet"
    ids = [f"{i:09d}" for i in range(1_000_000)]
    table = pa.table({"prompt": [i * 12 for i in ids], "id": ids})
    pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=1_000_000)
    return file


@pytest.mark.slow
def test_a_million_rows_are_checked_in_bounded_memory(million: Path) -> None:
    """Arrow and Python allocate far less than the file: 8 bytes an id is all that grows."""
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        assert validate(million, max_tokens=512).rows == 1_000_000
        python_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)
    assert million.stat().st_size > 120e6
    assert 1e6 < pool.max_memory() < 30e6
    assert python_bytes < 20e6
