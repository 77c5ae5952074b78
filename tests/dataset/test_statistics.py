"""Statistics of many pictures take bounded memory; few pictures give the exact numbers."""

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.dataset.statistics import BINS, ERROR, EXACT_PICTURES, STAGES, Times, gather
from tests.support.specimens import done, new_directory

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}


def distributions(count: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "alike": np.full(count, 3.25),
        "two kinds": generator.choice([0.004, 812.0], count, p=[0.94, 0.06]),
        "log-normal": generator.lognormal(0.0, 3.0, count),
        "uniform": generator.uniform(0.0, 10.0, count),
        "microseconds to days": 10 ** generator.uniform(-6, 6, count),
    }


def summary(times: np.ndarray, parts: int) -> dict[str, float]:
    counted = Times()
    for part in np.array_split(times, parts):
        counted.add(part)
    return counted.summary()


@pytest.mark.parametrize("name", distributions(1))
@pytest.mark.parametrize("count", [1, 2, 1000, EXACT_PICTURES])
def test_times_of_few_pictures_are_exact(name: str, count: int) -> None:
    times = distributions(count)[name]
    expected = {"mean": float(np.mean(times))}
    expected |= {key: float(np.quantile(times, part)) for key, part in QUANTILES.items()}
    assert summary(times, parts=7) == expected


@pytest.mark.parametrize("name", distributions(1))
@pytest.mark.parametrize("count", [EXACT_PICTURES + 1, 10 * EXACT_PICTURES])
def test_quantiles_of_many_pictures_are_off_by_half_a_percent_at_most(
    name: str, count: int
) -> None:
    times = distributions(count)[name]
    told = summary(times, parts=61)
    assert told["mean"] == pytest.approx(np.mean(times), rel=1e-9)
    for key, part in QUANTILES.items():
        assert told[key] == pytest.approx(np.quantile(times, part), rel=ERROR + 1e-9)


def test_no_times_and_times_of_zero_are_zero() -> None:
    zero = dict.fromkeys(("mean", *QUANTILES), 0.0)
    assert Times().summary() == zero
    assert summary(np.zeros(EXACT_PICTURES + 1), parts=3) == zero


def test_ten_million_times_take_the_memory_of_a_hundred_thousand() -> None:
    part, counted = np.linspace(0.1, 9.0, 10_000), Times()
    tracemalloc.start()
    for _ in range(1000):
        counted.add(part.copy())
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counted.count == 10_000_000
    assert peak_bytes < 8 * (EXACT_PICTURES + BINS) + 2_000_000


@pytest.mark.slow
def test_a_run_of_many_shards_is_gathered_within_a_bound(tmp_path: Path) -> None:
    """Two hundred shards of two thousand pictures: their times alone would be 16 MB."""
    shards, pictures = 200, 2000
    directory = new_directory(tmp_path, shards)
    columns = {stage: np.full(pictures, 2.0) for stage in STAGES}
    columns |= {"width": np.full(pictures, 64), "height": np.full(pictures, 32)}
    words = {"key": "000000000", "outcome": "ok", "cause": "", "path": "normal"}
    columns |= {name: [word] * pictures for name, word in words.items()}
    pq.write_table(pa.table(columns), directory.metadata(0))
    for shard in range(1, shards):
        directory.metadata(shard).hardlink_to(directory.metadata(0))
    tracemalloc.start()
    told = gather(directory, (done(shard, ok=pictures, group_s=0.5) for shard in range(shards)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (told.pictures, told.sizes, told.paths) == (
        400_000,
        {"64x32": 400_000},
        {"normal": 400_000},
    )
    assert told.seconds["total_s"]["p95"] == pytest.approx(2.0, rel=ERROR)
    assert peak_bytes < 8 * len(STAGES) * (EXACT_PICTURES + BINS) + 4_000_000
