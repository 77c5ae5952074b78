"""Statistics of a finished run, from its records alone (P8): anyone can recompute them from `metadata/*.parquet`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from batchgen.run import RunDirectory
from batchgen.shard import Done

STAGES = ("text_s", "denoise_s", "decode_s", "image_encode_s", "total_s")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts over all pictures; seconds over the good ones. Quantiles: of what a picture's group took, stage by stage."""

    pictures: int
    ok: int
    failed: int
    failures: dict[str, int]  # cause → pictures
    sizes: dict[str, int]  # "128x128" → good pictures
    paths: dict[str, int]  # normal, retry, … → good pictures
    tar_bytes: int
    device_s: float  # text, denoise and decode, each group once
    seconds: dict[str, dict[str, float]]  # stage → mean, p50, p95


def gather(directory: RunDirectory, done: list[Done]) -> Statistics:
    """Read every shard's records, a shard at a time."""
    sizes: Counter[str] = Counter()
    paths: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    times: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for one in done:
        table = pq.read_table(
            directory.metadata(one.shard),
            columns=["outcome", "cause", "path", "width", "height", *STAGES],
        )
        rows = table.to_pydict()
        failures.update(cause for cause in rows["cause"] if cause)
        good = [number for number, outcome in enumerate(rows["outcome"]) if outcome == "ok"]
        sizes.update(f"{rows['width'][number]}x{rows['height'][number]}" for number in good)
        paths.update(rows["path"][number] for number in good)
        for stage in STAGES:
            times[stage].extend(rows[stage][number] for number in good)
    ok = sum(one.ok for one in done)
    return Statistics(
        pictures=ok + sum(one.failed for one in done),
        ok=ok,
        failed=sum(one.failed for one in done),
        failures=dict(failures),
        sizes=dict(sizes),
        paths=dict(paths),
        tar_bytes=sum(one.tar_bytes for one in done),
        device_s=sum(one.group_s for one in done),
        seconds={stage: _summary(values) for stage, values in times.items()},
    )


def _summary(values: list[float]) -> dict[str, float]:
    if not values:
        return {"mean": 0.0, "p50": 0.0, "p95": 0.0}
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return {"mean": float(np.mean(values)), "p50": float(p50), "p95": float(p95)}
