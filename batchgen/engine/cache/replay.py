"""Decisions made beforehand: the same steps for all pictures, or another run's, picture by picture.

`schedule` measures nothing. `replay` measures and synchronises like the first-block cache and then obeys its trace: so costs can be
measured honestly where weights are random and distances mean nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.engine.cache.schedule import Given
from batchgen.errors import JobError


class Recorded:
    """Traces of another run, by key. A trace has a letter a step: `1` skipped, `0` computed."""

    def __init__(self, traces: dict[int, str], where: str) -> None:
        self._traces, self._where = traces, where

    def decider(self, key: int, steps: int) -> Given:
        """What was skipped of the picture of this key.

        :raises JobError: no such picture, another number of steps, letters other than 0 and 1, or a skipped first step.
        """
        if key not in self._traces:
            raise JobError(
                f"{self._where}: holds no trace of picture {key}; cache.trace must come from a run of the same manifest"
            )
        trace = self._traces[key]
        if (
            len(trace) != steps
            or not set(trace) <= {SKIPPED, COMPUTED}
            or trace.startswith(SKIPPED)
        ):
            raise JobError(
                f"{self._where}: picture {key}: expected {steps} letters, {SKIPPED} for a skipped step and {COMPUTED} for a computed one, "
                f"the first step computed; it has {trace!r}"
            )
        return Given(frozenset(step for step, letter in enumerate(trace) if letter == SKIPPED))


def read_traces(path: Path) -> Recorded:
    """Traces from a run's records: `metadata/` or one of its Parquet files (columns `key`, `skipped`), or JSON `{"17": "0011"}`.

    Pictures without a trace (failed ones) are left out.

    :raises JobError: not readable as either.
    """
    try:
        if path.suffix == ".json":
            traces = {
                int(key): str(trace)
                for key, trace in json.loads(path.read_text(encoding="utf-8")).items()
            }
        else:
            table = pq.read_table(path, columns=["key", "skipped"])
            traces = dict(zip(table["key"].to_pylist(), table["skipped"].to_pylist(), strict=True))
    except (OSError, ValueError, AttributeError, pa.ArrowException) as error:
        raise JobError(
            f'cache.trace = "{path}": expected records of a run (Parquet with the columns key and skipped) or JSON: {error}'
        ) from None
    return Recorded({key: trace for key, trace in traces.items() if trace}, str(path))
