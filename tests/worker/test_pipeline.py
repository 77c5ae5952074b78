"""Two groups are in flight, never three; what is written has no hole, and no group is lost."""

import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from batchgen.engine.interface import Verdict
from batchgen.errors import DeviceFault
from batchgen.model import Guidance
from batchgen.shard.escalation import Task
from batchgen.shard.journal import read_journal
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import parse
from batchgen.worker.pipeline import Pipeline
from tests.support.specimens import StubEngine, new_directory, new_pipeline, picture, pictures


@pytest.fixture
def partial(tmp_path: Path) -> PartialShard:
    return PartialShard(new_directory(tmp_path), 0, 1, [])


@pytest.fixture
def engine() -> StubEngine:
    return StubEngine()


@pytest.fixture
def pipeline(engine: StubEngine) -> Iterator[Pipeline]:
    made = new_pipeline(engine)
    yield made
    made.close()


def tasks_of(groups: int, **given: Any) -> list[Task]:
    """Tasks of two pictures each."""
    everything = pictures(2 * groups)
    return [Task(at, everything[at : at + 2], **given) for at in range(0, 2 * groups, 2)]


def always(_task: Task) -> bool:
    return True


def journal(partial: PartialShard) -> list[tuple[str, int]]:
    return [(entry.do, entry.at) for entry in read_journal(partial.path("journal"))]


def names(partial: PartialShard) -> list[str]:
    whole = io.BytesIO(partial.path("tar").read_bytes() + bytes(1024))
    with tarfile.open(fileobj=whole) as tar:
        return tar.getnames()


def test_groups_are_written_and_yielded_in_order(pipeline: Pipeline, partial: PartialShard) -> None:
    groups = pipeline.run(partial, tasks_of(5), always)
    yielded = [(made[0].picture.key, partial.position) for made in groups]
    assert [key for key, _ in yielded] == [0, 2, 4, 6, 8]
    safe = [position >= key + 2 for key, position in yielded]
    assert all(safe), "a group is yielded when it is safely written"
    kinds = ("png", "txt", "json")
    assert names(partial) == [f"{key:09d}.{kind}" for key in range(10) for kind in kinds]
    assert [record.key for record in partial.records()] == list(range(10))


def test_while_a_group_is_denoised_the_one_before_is_written_and_no_other(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoding is slow. Denoising runs one group ahead and waits there."""
    in_flight: list[int] = []
    denoise, decode = engine.denoise, engine.decode

    def counted(group):
        in_flight.append(group[0].key + 2 - partial.position)
        return denoise(group)

    def slow(denoised):
        time.sleep(0.02)
        return decode(denoised)

    monkeypatch.setattr(engine, "denoise", counted)
    monkeypatch.setattr(engine, "decode", slow)
    list(pipeline.run(partial, tasks_of(8), always))
    assert max(in_flight) == 4, "pictures: two groups of two"


def test_the_journal_shows_at_most_two_groups_open(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    list(pipeline.run(partial, tasks_of(8), always))
    begun = ended = 0
    for do, at in journal(partial):
        begun, ended = (at + 2, ended) if do == "begin" else (begun, at)
        assert begun - ended <= 4
    assert (begun, ended) == (16, 16)


def test_a_careful_group_is_alone_in_flight(pipeline: Pipeline, partial: PartialShard) -> None:
    list(pipeline.run(partial, tasks_of(4, careful=True), always))
    pairs = [[("begin", at), ("end", at + 2)] for at in (0, 2, 4, 6)]
    assert journal(partial) == [line for pair in pairs for line in pair]


def test_a_group_that_may_not_begin_ends_the_run_after_those_in_flight(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard
) -> None:
    made = list(pipeline.run(partial, tasks_of(5), lambda task: task.at < 4))
    assert (len(made), partial.position) == (2, 4)
    assert engine.denoised == [[0, 1], [2, 3]]
    assert journal(partial)[-1] == ("end", 4)


def test_what_was_denoised_is_written_when_the_consumer_stops_early(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard
) -> None:
    run = pipeline.run(partial, tasks_of(5), always)
    next(run)
    run.close()
    assert engine.denoised == [[0, 1], [2, 3]]
    assert partial.position == 4


def test_a_signal_while_denoising_lets_the_group_before_be_written(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = engine.denoise

    def interrupted(group):
        if group[0].key == 2:
            raise SystemExit(0)
        return denoise(group)

    monkeypatch.setattr(engine, "denoise", interrupted)
    with pytest.raises(SystemExit):
        list(pipeline.run(partial, tasks_of(5), always))
    assert partial.position == 2
    assert ("begin", 2) in journal(partial), "a death while denoising must leave evidence"


@pytest.mark.parametrize("group", [0, 1, 2])
def test_after_a_write_error_the_following_group_is_not_written(
    group: int, pipeline: Pipeline, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would stand where the lost one belongs."""
    grow, calls = PartialShard.end, []

    def full(self, samples, records):
        calls.append(records[0].key)
        if records[0].key == 2 * group:
            raise OSError(28, "No space left on device")
        grow(self, samples, records)

    monkeypatch.setattr(PartialShard, "end", full)
    with pytest.raises(OSError, match="No space left"):
        list(pipeline.run(partial, tasks_of(5), always))
    assert calls == list(range(0, 2 * group + 1, 2))
    assert [record.key for record in partial.records()] == list(range(2 * group))


def test_a_device_fault_in_the_writing_thread_reaches_the_worker(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(_denoised: object) -> None:
        raise DeviceFault("gone")

    monkeypatch.setattr(engine, "decode", decode)
    with pytest.raises(DeviceFault):
        list(pipeline.run(partial, tasks_of(1), always))
    assert partial.position == 0
    assert journal(partial) == [("begin", 0)], "evidence of a death in this group"


def test_a_condemned_picture_is_recorded_and_never_touches_the_engine(
    pipeline: Pipeline, engine: StubEngine, partial: PartialShard
) -> None:
    list(
        pipeline.run(
            partial, tasks_of(1, path="solo", cause="killed its worker", error="twice"), always
        )
    )
    assert engine.denoised == []
    recorded = [(one.outcome, one.cause, one.error, one.path) for one in partial.records()]
    assert recorded == [("failed", "killed its worker", "twice", "solo")] * 2
    assert names(partial) == []


def test_a_verdict_is_written_about_the_pictures_in_flight_it_names_and_no_others(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    for _ in pipeline.run(partial, tasks_of(3), always):
        pass
    pipeline.in_flight.judge(Verdict("out of memory", (4, 5), "rank 1 was full"))
    pipeline.in_flight.judge(Verdict("exception", (3,), "rank 1 raised"))
    pipeline.in_flight.judge(Verdict("exception", (77,), "of another shard"))
    said = [entry for entry in read_journal(partial.path("journal")) if entry.do == "verdict"]
    memory, exception = (
        (4, 2, "out of memory", "rank 1 was full"),
        (3, 1, "exception", "rank 1 raised"),
    )
    assert [(one.at, one.count, one.cause, one.why) for one in said] == [memory, exception]


def test_failures_leave_a_record_and_no_sample(pipeline: Pipeline, partial: PartialShard) -> None:
    prompts = ["a cat", "NAN", "RAISE", "a cat"]
    group = [picture(key, prompt=prompt) for key, prompt in enumerate(prompts)]
    list(pipeline.run(partial, [Task(0, group[:2]), Task(2, group[2:])], always))
    written = [name for name in names(partial) if name.endswith("json")]
    assert written == ["000000000.json", "000000003.json"]
    recorded = [(one.key, one.outcome, one.cause, one.path) for one in partial.records()]
    assert recorded == [
        (0, "ok", "", "normal"),
        (1, "failed", "not finite", "retry"),
        (2, "failed", "exception", "retry"),
        (3, "ok", "", "retry"),
    ]
    assert (partial.position, partial.failed) == (4, 2)


def test_a_record_tells_who_made_it_and_how_long_each_stage_took(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    before = time.time()
    list(pipeline.run(partial, tasks_of(1), always))
    one = partial.records()[0]
    assert (one.host, one.worker, one.identity) == ("here", 0, "stub")
    assert (one.generation, one.shard, one.attempt) == (0, 0, 1)
    assert (one.text_s, one.denoise_s, one.decode_s) == (1.0, 2.0, 3.0)
    assert (one.peak_bytes, one.group_size) == (7, 2)
    assert min(one.queue_s, one.image_encode_s, one.total_s) >= 0
    assert before <= one.finished_at <= time.time()
    assert one.image_bytes > 0


def test_closing_ends_the_threads(engine: StubEngine, partial: PartialShard) -> None:
    before = threading.active_count()
    pipeline = new_pipeline(engine)
    list(pipeline.run(partial, tasks_of(2), always))
    pipeline.close()
    assert threading.active_count() == before


def test_what_the_model_did_not_read_is_recorded_as_none(
    engine: StubEngine, partial: PartialShard
) -> None:
    """A negative prompt acts where true_cfg is over 1; this model has no guidance embedding."""
    pipeline = new_pipeline(engine)
    pipeline.guidance = Guidance(embedded=False, contrasts=False)
    given = [
        picture(0, guidance=3.5, true_cfg=4.0, negative_prompt=""),
        picture(1, guidance=0.0, true_cfg=1.0, negative_prompt="grey"),
        picture(2, guidance=2.0, true_cfg=4.0, negative_prompt="grey"),
    ]
    made = list(pipeline.run(partial, [Task(0, given)], always))
    pipeline.close()
    assert [one.picture for one in made[0]] == given, "it may have to be made again as it was asked"
    expected = [(0.0, 1.0, ""), (0.0, 1.0, ""), (0.0, 4.0, "grey")]
    names = ("guidance", "true_cfg", "negative_prompt")
    recorded = parse(partial.path("records").read_bytes(), "records")
    assert [tuple(getattr(one, name) for name in names) for one in recorded] == expected
    whole = io.BytesIO(partial.path("tar").read_bytes() + bytes(1024))
    with tarfile.open(fileobj=whole) as tar:
        samples = [json.load(tar.extractfile(f"{key:09d}.json")) for key in range(3)]
    assert [tuple(sample[name] for name in names) for sample in samples] == expected
