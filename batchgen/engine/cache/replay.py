"""Skip what another run skipped, picture by picture.

With `blocks` of 1 or more, `replay` measures and synchronises as the first-block cache does, and
then obeys the other run's traces. So the costs of caching can be measured with random weights,
whose distances mean nothing. With `blocks = 0` a skipped step computes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.engine.cache.schedule import FixedSchedule
from batchgen.errors import JobError


class RecordedTraces:
    """Another run's traces by picture key: `1` for a skipped step, `0` for a computed one."""

    def __init__(self, traces: Mapping[int, str], where: str) -> None:
        self._traces, self._where = traces, where

    def decider(self, key: int, steps: int) -> FixedSchedule:
        """The steps that the picture of this key skipped.

        :raises JobError: the picture has no trace, or a trace of another number of steps, with
            other letters than 0 and 1, or with a skipped first step.
        """
        if key not in self._traces:
            raise JobError(
                f"{self._where}: holds no trace of picture {key}; cache.trace must come from a run "
                "of the same manifest"
            )
        trace = self._traces[key]
        complete = len(trace) == steps and set(trace) <= {SKIPPED, COMPUTED}
        if not complete or trace.startswith(SKIPPED):
            raise JobError(
                f"{self._where}: picture {key}: expected {steps} letters, {SKIPPED} for a skipped "
                f"step and {COMPUTED} for a computed one, the first step computed; it has {trace!r}"
            )
        return FixedSchedule(step for step, letter in enumerate(trace) if letter == SKIPPED)


def read_traces(path: Path) -> RecordedTraces:
    """Traces of another run; pictures without one, such as failed ones, are left out.

    :param path: the run's `metadata/` or one of its Parquet files (columns `key` and `skipped`),
        or a JSON file such as `{"17": "0011"}`.
    :raises JobError: the file cannot be read as either.
    """
    try:
        if path.suffix == ".json":
            read = json.loads(path.read_text(encoding="utf-8"))
            traces = {int(key): str(trace) for key, trace in read.items()}
        else:
            table = pq.read_table(path, columns=["key", "skipped"])
            # Keys are text, and were numbers in batchgen 0.2 and older.
            keys = map(int, table["key"].to_pylist())
            traces = dict(zip(keys, table["skipped"].to_pylist(), strict=True))
    except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
        raise JobError(
            f'cache.trace = "{path}": expected records of a run (Parquet with the columns key and '
            f"skipped) or JSON: {error}"
        ) from None
    return RecordedTraces({key: trace for key, trace in traces.items() if trace}, str(path))
