"""What the scorer said of a run's good pictures, counted from the records, some at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

COLUMNS = ("outcome", "score", "label")
# Labels that are shown, the most frequent ones.
LABELS = 12


@dataclass(frozen=True, slots=True)
class Scores:
    """How the scores of good pictures are spread; all is empty without a scorer."""

    scored: int = 0
    # Good pictures without a score, in a run where others have one.
    unscored: int = 0
    mean: float | None = None
    lowest: float | None = None
    highest: float | None = None
    # Of a classifier: label → how many pictures have it as the most probable one.
    labels: dict[str, int] = field(default_factory=dict)

    @property
    def frequent(self) -> list[tuple[str, int]]:
        """The most frequent labels and their pictures."""
        ordered = sorted(self.labels.items(), key=lambda item: (-item[1], item[0]))
        return ordered[:LABELS]


def count_scores(tables: Iterable[pa.Table]) -> Scores:
    """Count the scores of records.

    :param tables: with `COLUMNS`. Records of runs without scores may lack the last two.
    """
    good = scored = 0
    total, lowest, highest = 0.0, math.inf, -math.inf
    labels: Counter[str] = Counter()
    for table in tables:
        if "score" not in table.column_names:
            continue
        rows = table.filter(pc.equal(table["outcome"], "ok"))
        scores = rows["score"].drop_null().to_numpy()
        good += rows.num_rows
        labels.update(rows["label"].drop_null().to_pylist())
        if len(scores):
            scored, total = scored + len(scores), total + float(scores.sum())
            lowest, highest = min(lowest, float(scores.min())), max(highest, float(scores.max()))
    if not scored:
        return Scores()
    return Scores(scored, good - scored, total / scored, lowest, highest, dict(labels))
