"""Several ranks as one engine: what they paint, how they leave, and how all of a replica ends when one of its ranks does."""

import functools
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import rank_tasks as tasks
from rank_tasks import Made
from stock import make_picture
from world import Crew

from batchgen.engine import bond
from batchgen.engine.ranks import Ranks
from batchgen.errors import DeviceFault
from batchgen.job import Job, parse_job
from batchgen.manifest import Picture

pytestmark = pytest.mark.slow

CACHE = {"policy": "first_block", "threshold": 0.267, "taylor_order": 1}
SOON = {"GRACE_S": 2.0, "WATCH_S": 0.2, "SILENT": 15}  # a fifth of the usual patience


def job(**parallel: int) -> Job:
    model = {"path": "tiny", "max_sequence_length": 32}
    return parse_job({"model": model, "engine": {"device": "cpu"}, "cache": CACHE, "parallel": parallel or {"cp": 2}}, "a test")


def groups(first: int, steps: int, count: int = 2) -> list[list[Picture]]:
    """Two pictures each, of other prompts and seeds for another first key."""
    return [[make_picture(first + 2 * n, steps=steps), make_picture(first + 2 * n + 1, steps=steps)] for n in range(count)]


def alone(order: Sequence[Sequence[Picture]]) -> list[Made]:
    """What one rank makes of the groups, in this process."""
    engine = tasks.engine_of(Ranks(), job())
    return tasks.make(engine, order)


def assert_equal(made: Sequence[Made], expected: Sequence[Made]) -> None:
    for one, other in zip(made, expected, strict=True):
        assert (one.latents - other.latents).abs().max() < 1e-4
        assert abs(one.pixels.astype(int) - other.pixels).max() <= 1
        assert one.skipped == other.skipped


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    """A replica of two ranks that works while others fail; in the end it leaves in good order."""
    with Crew(tmp_path_factory.mktemp("steady") / "crew", job(cp=2, ring=2)) as crew:
        yield crew
        crew.close()
        assert crew.ends(20) == [0, 0]


def test_a_replica_makes_what_one_rank_makes(steady: Crew) -> None:
    order = groups(0, 6, 4)
    steady.ask(tasks.make, order)
    assert_equal(steady.answer(), alone(order))


@pytest.mark.parametrize(("deed", "rank"), [("raise", 1), ("raise", 0), ("kill", 1), ("kill", 0)])
def test_a_rank_that_fails_takes_its_replica_along_and_no_other(steady: Crew, tmp_path: Path, deed: str, rank: int) -> None:
    order, others = groups(0, 6, 6), groups(10, 9, 3)
    with Crew(tmp_path / "crew", job(), {rank: functools.partial(tasks.spoil, deed, 13, tmp_path / "mark")}) as crew:
        crew.ask(tasks.make, others)
        steady.ask(tasks.make, order)
        with pytest.raises((DeviceFault, EOFError)) as error:
            crew.answer()
        statuses = crew.ends()
        took = time.monotonic() - float((tmp_path / "mark").read_text())
    print(deed, rank, statuses, f"{took:.1f} s", repr(error.value)[:300])
    assert took < 60
    assert statuses[rank] == (-signal.SIGKILL if deed == "kill" else bond.LOST)
    assert statuses[1 - rank] == bond.LOST
    assert_equal(steady.answer(), alone(order))
