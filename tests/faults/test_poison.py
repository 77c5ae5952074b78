"""Pictures that kill their worker, raise, or turn out bad cost one record each, and no other."""

from pathlib import Path

import pytest

from tests.support.rehearsal import Answer, ask, records, rehearse

pytestmark = pytest.mark.slow
POISON = {2: "KILL", 8: "HANG", 19: "SEGV", 28: "KILLDECODE"}
COSTLY = {5: "RAISE", 6: "MEMORY", 12: "NAN", 31: "BLACK"}


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """Four shards of eight pictures, one poison picture in each, by two workers."""
    run = tmp_path_factory.mktemp("poison") / "run"
    prompts = [f"a cat {n} {(POISON | COSTLY).get(n, '')}" for n in range(32)]
    return run, rehearse(run, prompts, run__workers=2, shards__pictures=8, run__group_timeout_s=3)


def test_the_run_is_complete_and_sound(poisoned: tuple[Path, Answer]) -> None:
    run, answer = poisoned
    assert answer.code == 0, answer
    assert "24 ok, 8 failed, 0 pending of 32 pictures" in answer.out
    assert ask("verify", "--deep", run).code == 0


def test_a_picture_that_kills_twice_alone_is_recorded_and_only_it(
    poisoned: tuple[Path, Answer],
) -> None:
    killers = [record for record in records(poisoned[0]) if record["cause"] == "killed its worker"]
    assert [record["index"] for record in killers] == sorted(POISON)
    assert {record["path"] for record in killers} == {"solo"}


def test_a_picture_that_throws_or_turns_out_bad_costs_one_record(
    poisoned: tuple[Path, Answer],
) -> None:
    told = {
        record["index"]: (record["cause"], record["error"])
        for record in records(poisoned[0])
        if record["index"] in COSTLY
    }
    causes = [cause for cause, _ in told.values()]
    assert causes == ["exception", "exception", "not finite", "one colour"]
    assert told[5][1].startswith("RuntimeError: the picture does not want to be made")
    assert "Unable to allocate" in told[6][1]


def test_no_good_picture_is_missing(poisoned: tuple[Path, Answer]) -> None:
    good = [record["index"] for record in records(poisoned[0]) if record["outcome"] == "ok"]
    assert good == [key for key in range(32) if key not in POISON | COSTLY]


def test_the_logs_tell_where_it_hung_and_which_pictures_failed(
    poisoned: tuple[Path, Answer],
) -> None:
    assert "Timeout (0:00:03)!" in ask("logs", poisoned[0], "-n", 0).out
    failed = ask("logs", poisoned[0], "--failed").out
    assert "000000008 row 8: killed its worker" in failed
    assert "'a cat 5 RAISE'" in failed
