"""Rows → pictures: numbering, seeds, and reading only what a shard needs."""

import hashlib
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import ManifestError, PlanChanged
from batchgen.manifest import pictures, read_rows
from batchgen.manifest.parquet import ParquetManifest
from batchgen.manifest.rows import row_seed
from batchgen.settings import MAX_SEED, Sampling
from tests.manifest.validation import Parquet, all_pictures, validate


def test_keys_run_over_rows_times_images_and_rows_over_all_files(parquet: Parquet) -> None:
    files = [parquet("a.parquet", images=[2, 1]), parquet("b.parquet", images=[2])]
    made = all_pictures(*files)
    rows_and_images = [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1)]
    assert [(p.row, p.image) for p in made] == rows_and_images
    assert [p.key for p in made] == [0, 1, 2, 3, 4]


def test_any_cut_of_the_pictures_gives_the_same_pictures(parquet: Parquet) -> None:
    """A shard may begin and end inside a row."""
    images = [3, 1, 4, 2]
    file = parquet(images=images, options={"row_group_size": 2})
    sources, whole = validate(file).sources, all_pictures(file)
    owners = [(row, skip) for row, n in enumerate(images) for skip in range(n)]
    for first, (row, skip) in enumerate(owners):
        for count in range(1, 11 - first):
            table = read_rows(sources, row, owners[first + count - 1][0] - row + 1)
            place = {"first_row": row, "first_key": first, "skip": skip, "count": count}
            part = pictures(table, **place, sampling=Sampling())
            assert part == whole[first : first + count]


def test_more_pictures_than_the_rows_hold_is_our_own_bug(parquet: Parquet) -> None:
    table = read_rows(validate(parquet(images=[2])).sources, 0, 1)
    with pytest.raises(ValueError, match="3 pictures wanted of 1 rows that hold 2"):
        pictures(table, first_row=0, first_key=0, skip=0, count=3, sampling=Sampling())


def test_pictures_of_a_row_count_up_from_its_seed_and_wrap(parquet: Parquet) -> None:
    made = all_pictures(parquet(seed=[MAX_SEED - 1], images=[3]))
    assert [p.seed for p in made] == [MAX_SEED - 1, MAX_SEED, 0]


def test_a_seed_comes_from_the_id_wherever_the_row_stands(parquet: Parquet) -> None:
    one = all_pictures(parquet("a.parquet", id=["x", "y", "z"]))
    two = all_pictures(parquet("b.parquet", id=["z", "x", "y"]))
    assert {p.id: p.seed for p in one} == {p.id: p.seed for p in two}


def test_a_row_without_seed_and_id_hashes_its_index(parquet: Parquet) -> None:
    file = parquet(id=["", None, "1"], seed=pa.nulls(3))
    made = all_pictures(file, sampling=Sampling(seed=5))
    assert [p.seed for p in made] == [row_seed(5, "", 0), row_seed(5, "", 1), row_seed(5, "1", 2)]


def test_the_hash_is_the_documented_one() -> None:
    def documented(text: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1

    assert (
        row_seed(5, "ä", 3) == documented(b"batchgen\x005\x00id\x00\xc3\xa4") == 6151278291174116254
    )
    assert row_seed(5, "", 3) == documented(b"batchgen\x005\x00row\x003") == 4793164755982612300
    assert row_seed(6, "", 3) != row_seed(5, "", 3)
    assert all(0 <= row_seed(0, "", row) <= MAX_SEED for row in range(1000))


def test_reading_a_range_opens_only_its_row_groups(
    parquet: Parquet, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parquet(prompt=[f"p{i}" for i in range(100)], options={"row_group_size": 10})
    sources, read = validate(file).sources, []
    batches = ParquetManifest.batches

    def counted(self: ParquetManifest, *arguments: Any) -> Any:
        for row, batch in batches(self, *arguments):
            read.append(batch.num_rows)
            yield row, batch

    monkeypatch.setattr(ParquetManifest, "batches", counted)
    assert read_rows(sources, 42, 15).contract["prompt"].to_pylist() == [
        f"p{i}" for i in range(42, 57)
    ]
    assert sum(read) == 15


def test_damage_before_a_range_does_not_matter_to_it(parquet: Parquet) -> None:
    options = {
        "row_group_size": 10,
        "compression": "none",
        "use_dictionary": False,
        "write_page_checksum": True,
    }
    file = parquet(prompt=[f"prompt {i}" for i in range(30)], options=options)
    sources = validate(file).sources
    damaged = bytearray(file.read_bytes())
    damaged[damaged.index(b"prompt 5")] ^= 1
    file.write_bytes(damaged)
    assert read_rows(sources, 20, 2).contract["prompt"].to_pylist() == ["prompt 20", "prompt 21"]
    with pytest.raises(ManifestError, match="corrupt data"):
        read_rows(sources, 5, 1)


def test_a_range_may_span_files_and_pass_over_empty_ones(parquet: Parquet) -> None:
    files = [
        parquet("a.parquet", prompt=["a", "b"]),
        parquet("b.parquet", prompt=pa.array([], pa.string())),
        parquet("c.parquet", prompt=["c", "d"]),
    ]
    sources = validate(*files).sources
    assert read_rows(sources, 1, 2).contract["prompt"].to_pylist() == ["b", "c"]
    assert read_rows(sources, 3, 1).contract["prompt"].to_pylist() == ["d"]
    with pytest.raises(ValueError, match="beyond the 4 of the manifest"):
        read_rows(sources, 3, 2)


def test_a_manifest_that_changed_under_a_worker_is_refused(parquet: Parquet) -> None:
    file = parquet(prompt=["a", "b"])
    sources = validate(file).sources
    parquet(prompt=["a", "b", "c"])
    with pytest.raises(PlanChanged, match=rf"{file}: .* 2 rows then, 3 now"):
        read_rows(sources, 0, 1)
    file.unlink()
    with pytest.raises(PlanChanged, match=rf"{file}: .* is gone"):
        read_rows(sources, 0, 1)
