"""Scores are counted from the records; what is not there is not made up."""

import pyarrow as pa
import pytest

from batchgen.dataset.scores import LABELS, Scores, count_scores


def table(*rows: tuple[str, float | None, str | None]) -> pa.Table:
    outcomes, scores, labels = zip(*rows, strict=True)
    types = pa.schema([("outcome", "string"), ("score", "float64"), ("label", "string")])
    columns = {"outcome": outcomes, "score": scores, "label": labels}
    return pa.table({name: list(values) for name, values in columns.items()}, schema=types)


def test_scores_of_good_pictures_are_counted_over_all_tables() -> None:
    first = table(("ok", -2.0, None), ("failed", None, None), ("ok", None, None))
    second = table(("ok", 5.0, None), ("ok", 3.0, None))
    found = count_scores([first, second])
    assert found == Scores(3, 1, pytest.approx(2.0), -2.0, 5.0)


def test_labels_are_counted_and_the_most_frequent_ones_shown() -> None:
    rows = [("ok", 0.5, f"label {number % 20:02d}") for number in range(30)]
    found = count_scores([table(*rows)])
    assert found.labels["label 00"] == 2
    assert found.labels["label 19"] == 1
    assert found.frequent == [
        *((f"label {number:02d}", 2) for number in range(10)),
        *((f"label {number:02d}", 1) for number in range(10, LABELS)),
    ]


def test_without_scores_everything_is_empty() -> None:
    assert count_scores([]) == Scores()
    assert count_scores([table(("ok", None, None))]) == Scores()
    assert count_scores([pa.table({"outcome": ["ok"]})]) == Scores()
