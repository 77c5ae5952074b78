"""An audit measures chosen pictures, and whatever becomes of it, every picture is made the same."""

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from batchgen.engine.interface import Denoised
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.fidelity import EQUAL_DB, psnr, ssim
from batchgen.manifest import Picture
from batchgen.run.stop import read_stop
from batchgen.settings.job import Job, parse_job
from batchgen.shard.commit import read_done
from batchgen.shard.escalation import Task
from batchgen.shard.loss import Loss
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record
from batchgen.worker.audit import Auditor
from batchgen.worker.pipeline import Pipeline
from batchgen.worker.samples import Encoded, encode_picture
from tests.support.rehearsal import records
from tests.support.specimens import (
    StubEngine,
    new_directory,
    new_pipeline,
    picture,
    pictures,
    pixels,
    planned,
    worked,
)

ONE_OFF_DB = 20 * np.log10(255)  # every value is off by one


class Lossy(StubEngine):
    """An engine whose pictures are brighter by one without a cache.

    Prompts like `RAISE UNCACHED` let that fail. A picture of the prompt `SAME` is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.uncached: list[list[int]] = []

    def denoise(self, group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        if cached:
            return super().denoise(group)
        self.uncached.append([one.key for one in group])
        prompts = {one.prompt for one in group}
        if "RAISE UNCACHED" in prompts:
            raise ValueError("no")
        if "FILL UNCACHED" in prompts:
            raise OutOfMemory("too many")
        if "FAULT UNCACHED" in prompts:
            raise DeviceFault("an illegal memory access")
        finite = tuple(one.prompt != "NAN UNCACHED" for one in group)
        return Denoised({"uncached": group}, finite, 16, 16, 0.25, 0.5, 0)

    def decode(self, denoised: Denoised) -> Any:
        if not isinstance(denoised.latents, dict):
            return super().decode(denoised)
        group = denoised.latents["uncached"]
        prompts = {one.prompt for one in group}
        if "RAISE DECODING UNCACHED" in prompts:
            raise ValueError("not even now")
        if "FAULT DECODING UNCACHED" in prompts:
            raise DeviceFault("an illegal memory access")
        off = [one.prompt != "SAME" for one in group]
        return np.stack([pixels(one.key) + at for one, at in zip(group, off, strict=True)]), 0.25


def asked(fraction: float = 1.0, **audit: Any) -> Job:
    cache = {"policy": "multistep"}
    return parse_job({"cache": cache, "audit": {"fraction": fraction, **audit}}, "a test")


@pytest.fixture
def partial(tmp_path: Path) -> PartialShard:
    return PartialShard(new_directory(tmp_path), 0, 1, [])


@pytest.fixture
def engine() -> Lossy:
    return Lossy()


@pytest.fixture
def pipeline(engine: Lossy) -> Iterator[Pipeline]:
    made = new_pipeline(engine)
    made.auditor = Auditor(asked())
    yield made
    made.close()


def run(pipeline: Pipeline, partial: PartialShard, *tasks: Task) -> list[Record]:
    list(pipeline.run(partial, tasks, lambda _: True))
    return partial.records()


def told(records: Sequence[Record]) -> list[tuple[str, str, float | None]]:
    return [(one.audit, one.audit_error, one.psnr) for one in records]


def tar_of(folder: Path, group: Sequence[Picture], auditor: Auditor | None = None) -> bytes:
    """What a pipeline writes of a group."""
    partial, pipeline = PartialShard(new_directory(folder), 0, 1, []), new_pipeline(Lossy())
    pipeline.auditor = auditor or Auditor()
    run(pipeline, partial, Task(0, group))
    pipeline.close()
    return partial.path("tar").read_bytes()


def test_chosen_pictures_are_compared_and_their_records_say_how_far_they_are(
    pipeline: Pipeline, engine: Lossy, partial: PartialShard
) -> None:
    pipeline.auditor = Auditor(asked(0.2))
    group = [picture(key, prompt="SAME" if key == 26 else "a cat") for key in range(15, 30)]
    found = {one.key: one for one in run(pipeline, partial, Task(0, group))}
    assert engine.uncached == [[16, 19, 26]]
    assert engine.denoised == [list(range(15, 30))]
    assert sorted(key for key, one in found.items() if one.audit) == [16, 19, 26]
    for key in (16, 19):
        one, other = pixels(key), pixels(key) + 1
        assert (found[key].psnr, found[key].ssim) == (psnr(one, other), ssim(one, other))
        assert found[key].psnr == pytest.approx(ONE_OFF_DB)
    assert (found[26].audit, found[26].psnr, found[26].ssim) == ("measured", EQUAL_DB, 1.0)
    assert {found[key].audit_s for key in (16, 19, 26)} == {(0.25 + 0.5 + 0.25) / 3}
    others = [one for key, one in found.items() if key not in (16, 19, 26)]
    assert {(one.psnr, one.ssim, one.audit_s, one.audit_error) for one in others} == {
        (None, None, 0.0, "")
    }


@pytest.mark.parametrize(
    "fault",
    ["", "RAISE UNCACHED", "FILL UNCACHED", "NAN UNCACHED", "RAISE DECODING UNCACHED", "NAN"],
)
def test_the_tar_of_an_audited_group_is_that_of_one_which_is_not(
    fault: str, tmp_path: Path
) -> None:
    group = [picture(0), picture(1, prompt=fault or "a cat"), picture(2)]
    plain = tar_of(tmp_path / "plain", group)
    assert tar_of(tmp_path / "audited", group, Auditor(asked())) == plain
    assert len(plain) > 3000


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("RAISE UNCACHED", "ValueError: no"),
        ("FILL UNCACHED", "OutOfMemory: too many"),
        ("RAISE DECODING UNCACHED", "ValueError: not even now"),
    ],
)
def test_an_audit_that_fails_is_told_and_fails_no_picture(
    fault: str, why: str, pipeline: Pipeline, partial: PartialShard, caplog: Any
) -> None:
    group = [picture(0), picture(1, prompt=fault)]
    found = run(pipeline, partial, Task(0, group), Task(2, pictures(4)[2:]))
    assert [one.outcome for one in found] == ["ok"] * 4
    assert told(found[:2]) == [("not measured", why, None)] * 2
    assert [one.audit for one in found[2:]] == ["measured"] * 2
    assert f"could not measure 000000000, 000000001, which are made all the same: {why}" in (
        caplog.text
    )


def test_a_picture_that_is_not_finite_without_the_cache_is_not_measured_and_its_neighbour_is(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    found = run(pipeline, partial, Task(0, [picture(0), picture(1, prompt="NAN UNCACHED")]))
    assert [one.audit for one in found] == ["measured", "not measured"]
    assert found[1].audit_error == "without the cache the latents hold NaN or infinity"
    assert found[1].outcome == "ok"


def test_pictures_that_fail_are_not_measured(pipeline: Pipeline, partial: PartialShard) -> None:
    found = run(pipeline, partial, Task(0, [picture(0), picture(1, prompt="NAN")]))
    assert told(found)[1] == ("not measured", "the picture itself could not be made", None)
    assert found[0].audit == "measured"


@pytest.mark.parametrize("path", ["solo", "retry"])
def test_pictures_whose_process_died_are_made_without_an_audit(
    path: Any, pipeline: Pipeline, engine: Lossy, partial: PartialShard
) -> None:
    """So an audit that kills its process twice costs no picture."""
    found = run(pipeline, partial, Task(0, [picture(0)], careful=True, path=path))
    assert engine.uncached == []
    assert told(found) == [("not measured", "its group failed or ended its process before", None)]
    assert found[0].outcome == "ok"


def test_a_condemned_picture_never_touches_the_engine(
    pipeline: Pipeline, engine: Lossy, partial: PartialShard
) -> None:
    task = Task(0, [picture(0)], path="oom_split", cause="out of memory", error="alone")
    assert told(run(pipeline, partial, task))[0][0] == "not measured"
    assert (engine.denoised, engine.uncached) == ([], [])


def test_the_seconds_of_an_audit_are_no_part_of_a_pictures_times(
    pipeline: Pipeline, engine: Lossy, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, ended, denoise = threading.Event(), [0.0], engine.denoise

    def slow(group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        if not cached:
            assert encoded.wait(30)
            time.sleep(0.2)
            ended[0] = time.perf_counter()
        return denoise(group, cached=cached)

    def encode(*given: Any) -> Encoded:
        encoded.set()
        return encode_picture(*given)

    monkeypatch.setattr(engine, "denoise", slow)
    monkeypatch.setattr("batchgen.worker.pipeline.encode_picture", encode)
    begun = time.perf_counter()
    (found,) = run(pipeline, partial, Task(0, pictures(1)))
    assert begun + found.total_s < ended[0] - 0.05
    assert (found.text_s, found.denoise_s, found.decode_s) == (1.0, 2.0, 3.0)


LEFT = ("not measured", "the worker had to leave at once", None)


@pytest.mark.parametrize("fault", ["FAULT UNCACHED", "FAULT DECODING UNCACHED"])
def test_a_device_that_fails_in_an_audit_ends_the_process_when_the_group_is_written(
    fault: str, pipeline: Pipeline, partial: PartialShard
) -> None:
    first, second = [picture(0), picture(1, prompt=fault)], pictures(4)[2:]
    with pytest.raises(DeviceFault):
        run(pipeline, partial, Task(0, first), Task(2, second, careful=True))
    assert told(partial.records()) == [LEFT] * 2
    assert [one.outcome for one in partial.records()] == ["ok"] * 2


def test_a_process_that_must_end_during_an_audit_writes_the_group_first(
    pipeline: Pipeline, engine: Lossy, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise = engine.denoise

    def terminated(group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        if not cached:
            raise SystemExit(0)
        return denoise(group)

    monkeypatch.setattr(engine, "denoise", terminated)
    with pytest.raises(SystemExit):
        run(pipeline, partial, Task(0, pictures(2)), Task(2, pictures(4)[2:]))
    assert told(partial.records()) == [LEFT] * 2


def test_a_group_is_decoded_while_it_is_audited(
    pipeline: Pipeline, engine: Lossy, partial: PartialShard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The audit ends only after the group was decoded: both go on at once, or this hangs."""
    decoded, decode, denoise = threading.Event(), engine.decode, engine.denoise

    def deciding(denoised: Denoised) -> Any:
        decoded.set()
        return decode(denoised)

    def waiting(group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        assert cached or decoded.wait(30)
        return denoise(group, cached=cached)

    monkeypatch.setattr(engine, "decode", deciding)
    monkeypatch.setattr(engine, "denoise", waiting)
    assert [one.audit for one in run(pipeline, partial, Task(0, pictures(2)))] == ["measured"] * 2


def test_each_audit_has_the_whole_time_of_a_group(
    pipeline: Pipeline, partial: PartialShard
) -> None:
    pipeline.auditor = Auditor(asked(0.2))
    begun: list[int] = []
    tasks = [Task(at, pictures(20)[at : at + 5]) for at in range(0, 20, 5)]
    list(pipeline.run(partial, tasks, lambda _: True, lambda: begun.append(0)))
    assert len(begun) == 1, "16 and 19 are chosen, and both are of the last group"


AUDITED = ("cache.policy=multistep", "audit.fraction=1.0")


@pytest.mark.parametrize(("action", "made"), [("warn", 8), ("stop", 4)])
def test_a_breach_is_told_and_stops_the_run_if_it_is_asked_to(
    action: str, made: int, tmp_path: Path, caplog: Any
) -> None:
    """The group in flight is still made."""
    prompts = ["SAME"] * 8
    prompts[1] = "a cat"
    floor = (f"audit.action={action}", "audit.min_psnr=60")
    one = worked(planned(tmp_path, prompts, *AUDITED, *floor), Lossy())
    text = "picture 000000001 is 48.1 dB from what it is without the cache; audit.min_psnr = 60"
    assert text in caplog.text
    stop = read_stop(one.directory)
    assert (stop and (stop.cause, stop.text)) == (("audit", text) if action == "stop" else None)
    found = {row["index"]: row["audit"] for row in records(one.directory.root)}
    assert found == {key: "below" if key == 1 else "measured" for key in range(made)}


def test_a_picture_at_the_floor_is_above_it(tmp_path: Path) -> None:
    one = worked(planned(tmp_path, ["a cat"], *AUDITED, f"audit.min_psnr={ONE_OFF_DB}"), Lossy())
    assert records(one.directory.root)[0]["audit"] == "measured"


def test_a_shards_commit_has_the_loss_of_its_records(tmp_path: Path) -> None:
    prompts = ["SAME", "a cat", "NAN UNCACHED", "SAME"]
    one = worked(planned(tmp_path, prompts, *AUDITED, "audit.min_psnr=60"), Lossy())
    loss = Loss.of(cast("Any", [SimpleNamespace(**row) for row in records(one.directory.root)]))
    assert read_done(one.directory, 0).loss == loss
    assert (loss.measured, loss.unmeasured, loss.below, loss.device_s) == (3, 1, 1, 2.0)
    assert loss.psnr_mean == pytest.approx((2 * EQUAL_DB + ONE_OFF_DB) / 3)
    assert loss.psnr_worst == pytest.approx(ONE_OFF_DB)
