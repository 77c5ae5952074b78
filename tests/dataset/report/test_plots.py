"""The plots of a report: round marks, every value inside, every step in a cell."""

import numpy as np
import pytest

from batchgen.dataset.report.moments import FEW, MOST, Moment, Timeline
from batchgen.dataset.report.numbers import SizeClass
from batchgen.dataset.report.plots import CELLS, Axis, plot_course, plot_steps, steps_of_a_cell


@pytest.mark.parametrize("highest", [0.0, 1e-6, 0.3, 1.0, 4.0, 5.0, 7.3, 99.0, 100.0, 123_456.0])
def test_an_axis_holds_its_values_between_round_marks(highest: float) -> None:
    axis = Axis.over([0.0, highest])
    assert axis.top >= highest * (1 - 1e-9)
    assert 2 <= len(axis.marks) <= 5
    assert axis.y(axis.top) == 0.0
    assert axis.y(0.0) == 100.0
    digits = f"{axis.marks[0]:.3e}".partition("e")[0].rstrip("0").rstrip(".")
    assert digits in ("1", "2", "2.5", "5")


@pytest.mark.parametrize("span_s", [0, 0.5, 59, 3600, 86_400, 1e6, 1e9])
def test_a_run_has_at_most_sixty_moments(span_s: float) -> None:
    timeline = Timeline(Timeline.width(1.8e9, 1.8e9 + span_s, 10**6))
    at = 1.8e9 + np.linspace(0, span_s, 1000)
    timeline.add(at, np.ones(1000))
    moments = timeline.moments()
    assert 1 <= len(moments) <= MOST
    assert sum(moment.pictures for moment in moments) == 1000
    assert all(moment.p50_s == moment.p99_s == 1.0 for moment in moments)


@pytest.mark.parametrize(("pictures", "most"), [(1, FEW), (200, 10), (10**6, MOST)])
def test_a_moment_has_a_score_of_pictures_where_there_are_many(pictures: int, most: int) -> None:
    width_s = Timeline.width(1.8e9, 1.8e9 + 3599, pictures)
    # The next round number of seconds is at most 2.5 times as long.
    assert most / 2.5 <= 3600 / width_s <= most


def test_one_moment_has_no_course() -> None:
    assert plot_course([Moment(100.0, 10, 1.0, 2.0, 3.0)], 5.0) is None


def test_a_pause_is_a_gap_and_no_line_crosses_it() -> None:
    moments = [Moment(at, 10, 1.0, 2.0, 3.0) for at in (100.0, 105.0, 120.0)]
    course = plot_course(moments, 5.0)
    assert course is not None
    assert [(column.x, column.width) for column in course.columns] == [
        (0.0, 20.0),
        (20.0, 20.0),
        (80.0, 20.0),
    ]
    assert [column.per_hour for column in course.columns] == [7200.0] * 3
    assert [(one.x, two.x) for one, two in course.neighbours] == [(0.0, 20.0)]


@pytest.mark.parametrize("steps", [1, 28, CELLS, CELLS + 1, 1000])
def test_every_step_is_in_one_cell(steps: int) -> None:
    one = SizeClass(16, 16, steps, 4, np.arange(steps) % 5)
    size = steps_of_a_cell([one])
    cells = plot_steps(one, steps, size)
    assert len(cells) <= CELLS
    assert [step for cell in cells for step in range(cell.first, cell.last + 1)] == list(
        range(1, steps + 1)
    )
    assert sum(cell.width for cell in cells) == pytest.approx(100)
    total = sum(cell.share * (cell.last - cell.first + 1) for cell in cells)
    assert total == pytest.approx(sum(one.shares))
