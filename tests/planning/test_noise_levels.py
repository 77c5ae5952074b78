"""Stated noise levels: every one acts, or the plan refuses; what they replace is told."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from batchgen.errors import InputError, JobError, PlanChanged
from batchgen.model import TINY
from batchgen.planning import encode_schedule, identify_run
from batchgen.planning.identity import fingerprint
from batchgen.planning.planner import dry_run, locate_model
from batchgen.planning.preflight import refuse_impossible
from batchgen.planning.schedule_file import ModelDigest
from batchgen.run import create, open_run
from batchgen.settings import ClassSchedule, load_job
from tests.support.rehearsal import write_prompts

FOUR = "sampling.sigmas=[1.0, 0.6, 0.3, 0.1]"


def model(folder: Path, **scheduler: object) -> str:
    """A copy of the embedded model with changes to its scheduler's configuration."""
    shutil.copytree(TINY, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | scheduler))
    return f"model.path={folder}"


def plan(tmp_path: Path, *settings: str, **columns: Any) -> Any:
    rows = len(next(iter(columns.values()), [0]))
    manifest = write_prompts(tmp_path / "p.parquet", ["a cat"] * rows, **columns)
    located, checkpoint = locate_model(load_job(None, ["output.license=other", *settings]))
    refuse_impossible(located, checkpoint)
    return dry_run([manifest], located, checkpoint)


def test_every_row_has_as_many_steps_as_there_are_levels(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"sampling\.steps: 28; expected 4, a step for each of"):
        plan(tmp_path, FOUR)
    assert plan(tmp_path, FOUR, "sampling.steps=4").shapes[0].steps == 4
    steps = pa.array([4, 8, None, 4], pa.int64())
    with pytest.raises(
        InputError, match=r"row 1 of .*column steps: 8; expected 4, a step for each"
    ):
        plan(tmp_path, FOUR, "sampling.steps=4", steps=steps)
    with pytest.raises(
        InputError, match=r"row 2 of .*column steps: null, and sampling\.steps = 28"
    ):
        plan(tmp_path, FOUR, steps=pa.array([4, 4, None], pa.int64()))
    assert plan(tmp_path, FOUR, steps=[4, 4]).pictures == 2


def test_what_the_models_scheduler_does_with_stated_levels_is_told(tmp_path: Path) -> None:
    dynamic = model(tmp_path / "dynamic", use_dynamic_shifting=True, shift_terminal=0.02)
    static = model(tmp_path / "static", use_dynamic_shifting=False, shift=3.0)
    plain = model(tmp_path / "plain", use_dynamic_shifting=False, shift=1.0)
    four = FOUR, "sampling.steps=4"
    (told,) = plan(tmp_path, dynamic, *four).notes
    assert told == (
        "sampling.sigmas are moved by the model's scheduler (use_dynamic_shifting, shift_terminal "
        "= 0.02). --set sampling.shift=1 takes them as they are"
    )
    (told,) = plan(tmp_path, dynamic, "sampling.shift=3").notes
    assert told == (
        "sampling.shift = 3 moves the noise levels, and nothing else does: the model's scheduler "
        "would (use_dynamic_shifting, shift_terminal = 0.02)"
    )
    assert "(shift = 3)" in plan(tmp_path, static, *four).notes[0]
    assert not plan(tmp_path, plain, *four).notes
    assert not plan(tmp_path, plain, "sampling.shift=2").notes
    assert not plan(tmp_path, dynamic).notes


@pytest.mark.parametrize("key", ["use_karras_sigmas", "use_exponential_sigmas"])
def test_a_scheduler_that_would_read_the_ends_alone_refuses_levels_but_for_a_shift(
    tmp_path: Path, key: str
) -> None:
    curved, four = model(tmp_path / "curved", **{key: True}), (FOUR, "sampling.steps=4")
    with pytest.raises(JobError, match=rf"sigmas: .* has {key}, .*--set sampling\.shift=1 takes"):
        plan(tmp_path, curved, *four)
    assert plan(tmp_path, curved, *four, "sampling.shift=1").pictures == 1


def test_stated_levels_belong_to_the_fingerprint_and_a_run_never_changes_them(
    tmp_path: Path,
) -> None:
    def print_of(*settings: str) -> str:
        job, checkpoint = locate_model(load_job(None, list(settings)))
        assert checkpoint
        return fingerprint(identify_run(job, ("m",), checkpoint.identity))

    every = [(), ("sampling.shift=3",), ("sampling.shift=1",), (FOUR,), (FOUR, "sampling.shift=1")]
    assert len({print_of(*settings) for settings in every}) == len(every)
    manifest = write_prompts(tmp_path / "p.parquet", ["a cat"])
    create(tmp_path / "r", [manifest], *locate_model(load_job(None, ["sampling.shift=3"])))
    assert open_run(tmp_path / "r").job.sampling.shift == 3.0
    with pytest.raises(PlanChanged, match=r"sampling\.shift: 3\.0 → 2\.0"):
        create(tmp_path / "r", [manifest], *locate_model(load_job(None, ["sampling.shift=2"])))
    with pytest.raises(PlanChanged, match=r"sampling\.shift: 3\.0 → null"):
        create(tmp_path / "r", [manifest], *locate_model(load_job(None)))


def test_a_schedule_that_was_found_at_other_levels_is_refused(tmp_path: Path) -> None:
    its = ClassSchedule(pixels=2**14, steps=28, negative_prompt=False, computed=(0, 11, 19))
    path, shifted = tmp_path / "s.json", "sampling.shift=3"
    schedule = "cache.policy=schedule", f"cache.schedule={path}"

    def calibrated(*settings: str) -> None:
        found_for = ModelDigest.of(*locate_model(load_job(None, list(settings))))  # type: ignore[arg-type]
        path.write_bytes(encode_schedule(found_for, "a test", [its]))

    calibrated(shifted)
    assert locate_model(load_job(None, [*schedule, shifted]))[0].cache.classes == (its,)
    for others in ([], ["sampling.shift=2"], [shifted, "sampling.sigmas=[1.0]"]):
        with pytest.raises(JobError, match="other weights, LoRAs, strengths or noise levels"):
            locate_model(load_job(None, [*schedule, *others]))
    calibrated()
    with pytest.raises(JobError, match="or noise levels"):
        locate_model(load_job(None, [*schedule, shifted]))


def test_a_rehearsal_takes_stated_levels_too(tmp_path: Path) -> None:
    kind = "engine.kind=pattern"
    assert plan(tmp_path, kind, FOUR, "sampling.steps=4", "sampling.shift=3").notes == ()
    with pytest.raises(JobError, match=r"sampling\.steps: 28; expected 4"):
        plan(tmp_path, kind, FOUR)
