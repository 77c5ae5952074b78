"""Inputs with one mutation each are refused with a message, or act; none ends in a traceback."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest

from benchmarks.mutated_inputs import counts, table, tell
from benchmarks.mutations import KINDS, runs, settings
from benchmarks.mutations.trial import Outcome, Trial, ask, run
from benchmarks.mutations.watched import Result, try_inputs

RIGHT = {Outcome.REFUSED, Outcome.ACTED}
# Kinds whose first input needs no second of preparation.
QUICK = ("manifest", "job", "site", "command line")


def wrong(results: Sequence[Result]) -> list[str]:
    return [tell(one) for one in results if one.outcome not in RIGHT]


@pytest.mark.parametrize("kind", QUICK)
def test_a_sample_of_inputs_is_refused_with_a_message_or_acts(kind: str) -> None:
    assert wrong([*try_inputs(kind, 1, range(KINDS[kind] // 2))]) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
def test_every_input_is_refused_with_a_message_or_acts(kind: str) -> None:
    results = [*try_inputs(kind, 0, range(counts(2100)[kind]))]
    assert wrong(results) == []
    met = {one.outcome for one in results}
    assert met == RIGHT, "where nothing is accepted, or nothing refused, nothing is tested"


def test_the_table_has_at_least_2000_inputs_of_seven_kinds() -> None:
    assert sum(counts(2100).values()) >= 2100
    assert list(counts(2100)) == list(KINDS)


@pytest.mark.parametrize("option", ["--job", "--site"])
@pytest.mark.usefixtures("no_driver")
def test_files_are_sound_before_they_are_mutated(option: str, tmp_path: Path) -> None:
    sound = settings.sound_jobs() if option == "--job" else settings.sound_sites()
    for text in sound:
        (tmp_path / "file.toml").write_text(text)
        answer = ask(["plan", settings.prompts(tmp_path), option, tmp_path / "file.toml"])
        assert (answer.code, answer.err) == (0, "")


def test_the_same_seed_gives_the_same_mutations(tmp_path: Path) -> None:
    def about(seed: str) -> list[str]:
        chance = Random(seed)
        return [settings.any_override(chance) for _ in range(50)]

    assert about("a") == about("a") != about("b")


def test_an_input_that_is_answered_wrongly_counts_as_what_it_is(tmp_path: Path) -> None:
    plan = ["plan", settings.prompts(tmp_path)]

    def outcome(*commands: Sequence[object], wrong: str = "") -> Outcome:
        return run(Trial("", commands, wrong_if_accepted=lambda _: wrong))[0]

    assert outcome(plan) == Outcome.ACTED
    assert outcome(["plan", tmp_path / "none"]) == Outcome.REFUSED
    assert outcome(["plan", tmp_path / "none"], wrong="never asked") == Outcome.REFUSED
    assert outcome(plan, wrong="other rows") == Outcome.WRONG
    assert outcome([*plan, "--set", "sampling.steps"]) == Outcome.REFUSED


def test_an_exception_counts_as_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchgen.settings.load_job", lambda *_: 1 // 0)
    outcome, why = run(Trial("", [["plan", settings.prompts(tmp_path)]]))
    assert outcome == Outcome.TRACEBACK
    assert "ZeroDivisionError" in why


def test_the_table_counts_each_outcome_once() -> None:
    def result(outcome: Outcome) -> Result:
        return Result("job", 0, outcome, "", "")

    shown = table([result(outcome) for outcome in (*Outcome, Outcome.ACTED)])
    assert "| inputs | tried | clean error | acted | wrong | traceback | hang |" in shown
    assert "| job | 6 | 1 | 2 | 1 | 1 | 1 |" in shown


def test_an_altered_run_that_is_called_complete_and_sound_is_wrong(finished, tmp_path) -> None:
    run_folder, _ = finished
    assert runs.differs(run_folder, run_folder) == ""
    assert "tars" in runs.differs(tmp_path, run_folder)
