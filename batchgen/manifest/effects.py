"""Values of rows, and of the job, that change no picture: counted, so that people can be told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from batchgen.manifest.contract import DEFAULTED, normalise
from batchgen.model import Guidance
from batchgen.settings import Sampling


@dataclass(slots=True)
class Effects:
    """Counts of rows, by column of the contract."""

    sampling: Sampling
    # How the model is guided; None: every value acts.
    guidance: Guidance | None
    # Rows with a value of their own that changes nothing.
    idle: Counter[str] = field(default_factory=Counter)
    # Rows that take the job's value.
    from_job: Counter[str] = field(default_factory=Counter)
    # Rows that take the job's value, and in which it changes nothing.
    idle_from_job: Counter[str] = field(default_factory=Counter)
    # Rows with classifier-free guidance.
    contrasted: int = 0

    def count(self, batch: pa.RecordBatch, used: Mapping[str, str]) -> None:
        """Add the rows of a batch.

        :param used: column of the contract → column of the batch.
        """
        found = {
            name: normalise(batch.column(used[name]), name) for name in DEFAULTED if name in used
        }
        for name in DEFAULTED:
            self.from_job[name] += found[name].null_count if name in found else batch.num_rows
        if self.guidance is None:
            return
        guidance, true_cfg = (
            _filled(found.get(name), getattr(self.sampling, name), batch.num_rows)
            for name in ("guidance", "true_cfg")
        )
        texts = found.get("negative_prompt")
        lengths = None if texts is None else pc.binary_length(texts)
        negative = _filled(lengths, len(self.sampling.negative_prompt), batch.num_rows) > 0
        contrasted = self.guidance.contrasted(guidance, true_cfg, negative)
        self.contrasted += int(np.count_nonzero(contrasted))
        for name, idle in self.guidance.idle(guidance, true_cfg, negative).items():
            own = _filled(None if name not in found else found[name].is_valid(), False, len(idle))
            self.idle[name] += int(np.count_nonzero(idle & own))
            self.idle_from_job[name] += int(np.count_nonzero(idle & ~own))


def _filled(column: pa.Array | None, default: Any, rows: int) -> npt.NDArray[Any]:
    """The values of a column, with a default where it is absent or null."""
    if column is None:
        return np.full(rows, default)
    filled: npt.NDArray[Any] = column.fill_null(default).to_numpy(zero_copy_only=False)
    return filled
