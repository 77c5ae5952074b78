"""Settings with schedules: how many steps each class computes, and what is said of the others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from batchgen.calibration.schedules import RECORDED, Known, Search, counts_of, trace_of
from batchgen.calibration.search import Recorded
from batchgen.settings import Cache, PictureClass, load_job

SIGMAS = tuple(1 - step / 8 for step in range(9))


def known(roughness: float) -> Known:
    """A class whose velocities are a line plus what nothing describes."""
    generator = np.random.default_rng(0)
    line = np.linspace(1, 2, 8)[:, None] * generator.normal(size=50)
    values = line + roughness * generator.normal(size=(3, 8, 50))
    return Known.of(Recorded(SIGMAS, values @ values.transpose(0, 2, 1)))


def test_rougher_pictures_compute_more_steps_for_the_same_error() -> None:
    smooth, rough = (PictureClass(2**14, 8, negative) for negative in (False, True))
    classes = {smooth: known(0.01), rough: known(0.05)}
    for share, least in ((0.25, 2), (0.4, 3), (0.5, 4)):
        counts = counts_of(share, classes)
        assert counts[smooth] == least
        assert counts[rough] > least
        allowed = classes[smooth].largest[least - 1]
        for kind, count in counts.items():
            assert classes[kind].largest[count - 1] <= allowed * 1.001 or count == 8


@pytest.mark.parametrize(("steps", "told"), [(2, "2 steps"), (100, "100 steps"), (28, "")])
def test_what_is_not_searched_is_told_before_anything_is_made(
    tmp_path: Path, steps: int, told: str
) -> None:
    row = {"width": 128, "height": 128, "steps": steps, "negative_prompt": ""}
    table, made = pa.Table.from_pylist([row]), []

    def submit(trial: Any) -> Any:
        made.append(trial)
        return SimpleNamespace(finished=False)

    found = Search(tmp_path, load_job(None), table, table).run(submit)
    assert told in found.note
    if told:
        assert (made, found.families, found.waiting) == ([], (), None)
    else:
        assert [one.name for one in made] == [RECORDED]
        assert found.waiting is made[0]
        assert made[0].job.cache == Cache(record=True)
        assert made[0].sample.exists()


def test_without_shares_nothing_is_searched(tmp_path: Path) -> None:
    nothing: Any = None
    assert not Search(tmp_path, load_job(None), nothing, nothing, ()).run(nothing).families


def test_a_schedule_is_written_as_a_trace() -> None:
    assert trace_of((0, 2, 3), 5) == "01001"
