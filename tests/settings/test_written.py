"""A key that was written acts, or is refused with what to do; a default is not written."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from batchgen.errors import JobError
from batchgen.settings.job import Job, load_job, to_toml
from batchgen.settings.section import read_with
from batchgen.settings.written import unread

# key → a value that a person may write, settings with which it is read, and without which it is
# not. Every other key is read whatever the others say.
READ: dict[str, tuple[str, Sequence[str], Sequence[str]]] = {
    "precision.granularity": ("row", ["precision.linear=int8"], ["precision.linear=bf16"]),
    "precision.force": (
        "true",
        ["precision.linear=fp8", "precision.granularity=tensor"],
        ["precision.linear=fp8"],
    ),
    "cache.threshold": ("0.08", ["cache.policy=teacache"], ["cache.policy=none"]),
    "cache.tolerance": ("0.02", ["cache.policy=multistep"], ["cache.policy=first_block"]),
    "cache.blocks": ("1", ["cache.policy=replay"], ["cache.policy=adacache"]),
    "cache.warmup": ("2", ["cache.policy=first_block"], ["cache.policy=schedule"]),
    "cache.max_consecutive": ("2", ["cache.policy=adacache"], ["cache.policy=replay"]),
    "cache.taylor_order": ("0", ["cache.policy=schedule"], []),
    "cache.skip": ("[3]", ["cache.policy=schedule"], ["cache.policy=first_block"]),
    "cache.schedule": ("s.json", ["cache.policy=multistep"], ["cache.policy=none"]),
    "cache.classes": ("[]", ["cache.policy=schedule"], ["cache.policy=replay"]),
    "cache.record": ("true", [], ["cache.policy=multistep"]),
    "cache.trace": ("runs/a", ["cache.policy=replay"], ["cache.policy=first_block"]),
    "output.quality": ("95", ["output.format=webp"], ["output.format=png"]),
    "output.lossless": ("true", ["output.format=webp"], ["output.format=jpg"]),
    "run.quantized_weights": ("q", ["precision.linear=fp8"], ["precision.text=fp8"]),
    "audit.fraction": ("0.1", ["cache.policy=multistep"], ["cache.policy=none"]),
    "audit.min_psnr": (
        "40",
        ["cache.policy=multistep", "audit.fraction=0.1"],
        ["cache.policy=multistep", "audit.fraction=0.0"],
    ),
    "audit.action": (
        "warn",
        ["cache.policy=multistep", "audit.fraction=0.1", "audit.min_psnr=40"],
        ["cache.policy=multistep", "audit.fraction=0.1"],
    ),
    "pattern.delay_s": ("0.5", ["engine.kind=pattern"], ["engine.kind=torch"]),
}


def test_of_every_key_it_is_decided_with_which_others_it_is_read() -> None:
    conditional = [
        f"{section}.{key}"
        for section, table in Job()
        for key, field in type(table).model_fields.items()
        if read_with(field)
    ]
    assert sorted(conditional) == sorted(READ)


@pytest.mark.parametrize("key", READ)
def test_a_written_key_that_is_not_read_is_refused_even_with_its_default(
    key: str, tmp_path: Path
) -> None:
    value, read, unread = READ[key]
    load_job(None, [*read, f"{key}={value}"])
    with pytest.raises(JobError, match=f"\n  {key} would have no effect: it is read where .*"):
        load_job(None, [*unread, f"{key}={value}"])
    (tmp_path / "job.toml").write_text("".join(map(toml, [*unread, f"{key}={value}"])))
    with pytest.raises(JobError, match=rf"{tmp_path}/job\.toml:\n  {key} would have no effect"):
        load_job(tmp_path / "job.toml")
    (tmp_path / "job.toml").write_text("".join(map(toml, [*read, f"{key}={value}"])))
    load_job(tmp_path / "job.toml")


def toml(override: str) -> str:
    """An override as a line of a job file."""
    key, _, value = override.partition("=")
    return f"{key} = {value if value[0] in '0123456789[' or value == 'true' else repr(value)}\n"


def test_the_answer_says_when_a_key_is_read_and_what_to_type() -> None:
    with pytest.raises(JobError) as refusal:
        load_job(None, ["cache.threshold=0.12", "output.format=png", "output.quality=90"])
    head, threshold, quality = str(refusal.value).splitlines()
    assert head == "the default job:"
    assert threshold.endswith(
        'is read where cache.policy is "first_block", "teacache" or "adacache", and here it is '
        '"none". --set cache.policy=first_block, or leave cache.threshold out'
    )
    assert quality.endswith(
        'here it is "png". --set output.format=jpg, or leave output.quality out'
    )


def test_what_to_type_helps() -> None:
    load_job(None, ["cache.threshold=0.12", "cache.policy=first_block"])


def test_the_job_file_of_a_run_spells_out_defaults_that_nobody_wrote(tmp_path: Path) -> None:
    copy = tmp_path / "job.toml"
    copy.write_text(to_toml(load_job(None, ["output.format=png"])))
    job = load_job(copy)
    assert job.output.quality == 95
    assert not job.output.model_fields_set
    with pytest.raises(JobError, match=r"output\.quality would have no effect"):
        load_job(copy, ["output.quality=90"])


def test_of_each_section_it_is_known_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[sampling]\nwidth = 64\nsteps = 28\n")
    job = load_job(tmp_path / "job.toml", ["sampling.seed=3", "engine.batch_size=2"])
    assert job.sampling.model_fields_set == {"width", "steps", "seed"}
    assert job.engine.model_fields_set == {"batch_size"}
    assert not job.output.model_fields_set
    assert not load_job(None).sampling.model_fields_set, "the default job is nobody's writing"


def test_a_rehearsal_takes_a_job_file_as_it_is() -> None:
    of_a_model = ["precision.linear=fp8", "cache.policy=first_block", "cache.threshold=0.1"]
    load_job(None, [*of_a_model, "run.quantized_weights=q", "engine.kind=pattern"])


def test_who_overrides_a_choice_may_leave_in_the_file_what_belonged_to_it(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[output]\nformat = 'jpg'\nquality = 90\n")
    job = load_job(tmp_path / "job.toml", ["output.format=png"])
    assert [one.key for one in unread(job)] == ["output.quality"]
    with pytest.raises(JobError, match=r"output\.quality would have no effect"):
        load_job(tmp_path / "job.toml", ["output.format=png", "output.quality=90"])
