"""A score is recorded beside its picture, and whatever becomes of it, the picture is made."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from batchgen.engine import Scored
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.fidelity import Pixels
from batchgen.shard.escalation import Task
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record
from batchgen.worker.pipeline import Pipeline
from batchgen.worker.samples import Encoded, encode_picture
from batchgen.worker.scoring import Scoring
from tests.support.specimens import StubEngine, new_directory, new_pipeline, picture, pictures


class Judge:
    """A scorer whose score is a pixel of the picture; prompts let it fail."""

    def __init__(self, fits: int = 1000) -> None:
        self.fits = fits
        self.seen: list[list[str]] = []

    def __call__(self, pixels: Sequence[Pixels], prompts: Sequence[str]) -> list[Scored]:
        self.seen.append(list(prompts))
        if len(prompts) > self.fits:
            raise OutOfMemory("too many")
        for fault, error in {"RAISES": ValueError("no"), "FAULTS": DeviceFault("gone")}.items():
            if fault in prompts:
                raise error
        return [
            Scored(None) if prompt == "ENDLESS" else Scored(float(one[1, 0, 0]), ("a", "b"), (0, 1))
            for one, prompt in zip(pixels, prompts, strict=True)
        ]


@pytest.fixture
def partial(tmp_path: Path) -> PartialShard:
    return PartialShard(new_directory(tmp_path), 0, 1, [])


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def pipeline(judge: Judge) -> Iterator[Pipeline]:
    made = new_pipeline(StubEngine())
    made.scoring = Scoring(judge)
    yield made
    made.close()


def run(pipeline: Pipeline, partial: PartialShard, *tasks: Task) -> list[Record]:
    list(pipeline.run(partial, tasks, lambda _: True))
    return partial.records()


def test_every_good_picture_has_its_own_score(
    pipeline: Pipeline, judge: Judge, partial: PartialShard
) -> None:
    group = [picture(1), picture(2, prompt="NAN"), picture(3, prompt="three")]
    one, failed, three = run(pipeline, partial, Task(0, group))
    assert (one.score, three.score) == (1.0, 3.0)
    assert (one.label, one.labels, one.label_scores) == ("a", ["a", "b"], [0, 1])
    assert (failed.score, failed.label, failed.labels, failed.score_s) == (None, None, None, 0.0)
    assert judge.seen == [[group[0].prompt, "three"]]
    assert one.score_s == three.score_s > 0


def test_a_run_without_a_scorer_has_no_scores(pipeline: Pipeline, partial: PartialShard) -> None:
    pipeline.scoring = Scoring()
    (one,) = run(pipeline, partial, Task(0, pictures(1)))
    assert (one.score, one.label, one.labels, one.label_scores, one.score_s) == (None,) * 4 + (0.0,)


def tar_of(folder: Path, scoring: Scoring, prompt: str) -> bytes:
    partial, pipeline = PartialShard(new_directory(folder), 0, 1, []), new_pipeline(StubEngine())
    pipeline.scoring = scoring
    run(pipeline, partial, Task(0, [picture(0), picture(1, prompt=prompt)]))
    pipeline.close()
    return partial.path("tar").read_bytes()


@pytest.mark.parametrize("prompt", ["a cat", "RAISES", "ENDLESS"])
def test_a_score_leaves_no_trace_in_the_tar(prompt: str, tmp_path: Path) -> None:
    plain = tar_of(tmp_path / "plain", Scoring(), prompt)
    assert tar_of(tmp_path / "scored", Scoring(Judge()), prompt) == plain


@pytest.mark.parametrize(
    ("prompt", "why"),
    [("RAISES", "ValueError: no"), ("ENDLESS", "what the scorer computed is not finite")],
)
def test_what_cannot_be_scored_is_made_and_told_once(
    prompt: str, why: str, pipeline: Pipeline, partial: PartialShard, caplog: Any
) -> None:
    bad, good = [picture(7, prompt=prompt), picture(8, prompt=prompt)], pictures(4)[2:]
    found = run(pipeline, partial, Task(0, bad), Task(2, good))
    assert [one.outcome for one in found] == ["ok"] * 4
    assert [one.score for one in found] == [None, None, 2.0, 3.0]
    assert caplog.text.count("without a score") == 1
    assert f"picture 000000007 is recorded without a score, as others may be: {why}" in caplog.text


def test_pictures_that_do_not_fit_together_are_scored_in_halves(
    pipeline: Pipeline, judge: Judge, partial: PartialShard
) -> None:
    judge.fits = 2
    found = run(pipeline, partial, Task(0, pictures(5)))
    assert [one.score for one in found] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [len(one) for one in judge.seen] == [5, 2, 3, 1, 2]


def test_one_picture_that_does_not_fit_is_made_without_a_score(
    pipeline: Pipeline, judge: Judge, partial: PartialShard
) -> None:
    judge.fits = 0
    assert [one.score for one in run(pipeline, partial, Task(0, pictures(2)))] == [None, None]


def test_a_device_that_fails_in_a_score_ends_the_process_when_the_group_is_written(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    first = [picture(0), picture(1, prompt="FAULTS")]
    with pytest.raises(DeviceFault):
        run(pipeline, partial, Task(0, first), Task(2, pictures(4)[2:], careful=True))
    assert [(one.outcome, one.score) for one in partial.records()] == [("ok", None)] * 2


def test_a_group_is_encoded_and_the_next_denoised_while_it_is_scored(
    pipeline: Pipeline, judge: Judge, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first score ends only after that, and pictures are encoded only once it has begun."""
    begun, encoded, denoised = (threading.Event() for _ in range(3))
    engine: Any = pipeline.renderer.engine
    denoise = engine.denoise

    def deciding(group: Any) -> Any:
        if group[0].key == 2:
            denoised.set()
        return denoise(group)

    def encode(pixels: Any, output: Any, xmp: bytes) -> Encoded:
        assert begun.wait(10)
        encoded.set()
        return encode_picture(pixels, output, xmp)

    def waiting(pixels: Any, prompts: Any) -> list[Scored]:
        begun.set()
        assert encoded.wait(10)
        assert denoised.wait(10)
        return judge(pixels, prompts)

    monkeypatch.setattr(engine, "denoise", deciding)
    monkeypatch.setattr("batchgen.worker.pipeline.encode_picture", encode)
    pipeline.scoring = Scoring(waiting)
    every = pictures(4)
    found = run(pipeline, partial, Task(0, every[:2]), Task(2, every[2:]))
    assert [one.score for one in found] == [0.0, 1.0, 2.0, 3.0]
