"""A job file is read strictly, and a job that is written down is read back as it was."""

import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from batchgen.errors import JobError
from batchgen.settings import Cache
from batchgen.settings.job import Job, load_job, parse_job, to_toml

READY = Path(__file__).parents[2] / "jobs"
OLD_RUNS = Path(__file__).parents[1] / "data" / "run-0.1.0.tar.gz"


def written_and_read(job: Job) -> Job:
    return parse_job(tomllib.loads(to_toml(job)), "job.toml")


def refusal(*overrides: str) -> str:
    with pytest.raises(JobError) as error:
        load_job(None, list(overrides))
    return str(error.value)


@pytest.mark.parametrize("path", sorted(READY.glob("*.toml")), ids=lambda path: path.name)
def test_every_ready_job_loads_and_survives_being_written(path: Path) -> None:
    job = load_job(path)
    assert written_and_read(job) == job


def test_the_tiny_job_is_the_default_spelled_out() -> None:
    assert load_job(READY / "tiny.toml") == load_job(None)


def test_a_written_job_spells_out_every_default() -> None:
    written, job = tomllib.loads(to_toml(load_job(None))), load_job(None).model_dump(mode="json")
    for section, keys in job.items():
        assert written[section] == {k: value for k, value in keys.items() if value is not None}


@pytest.mark.parametrize(
    ("policy", "threshold"),
    [("none", 0.08), ("first_block", 0.08), ("teacache", 0.4), ("adacache", 0.02)],
)
def test_each_policy_has_a_threshold_of_its_own_unless_one_is_given(
    policy: str, threshold: float
) -> None:
    job = load_job(None, [f"cache.policy={policy}"])
    assert (job.cache.threshold, job.cache.model_fields_set) == (threshold, {"policy"})
    assert job.identity()["cache"]["threshold"] == threshold
    assert Cache(policy=policy, threshold=0.08).threshold == 0.08
    # What a run has recorded stays, so that runs begun with another default go on.
    old = to_toml(job.model_copy(update={"cache": Cache(policy=policy, threshold=0.08)}))
    assert parse_job(tomllib.loads(old), "job.toml").cache.threshold == 0.08


def test_the_jobs_of_older_runs_are_still_read() -> None:
    with tarfile.open(OLD_RUNS) as archive:
        files = [member for member in archive if member.name.endswith("/job.toml")]
        texts = [archive.extractfile(file).read().decode() for file in files]
    assert len(texts) == 2
    for text in texts:
        job = parse_job(tomllib.loads(text), "job.toml")
        assert written_and_read(job) == job


def test_a_job_with_loras_that_0_1_0_wrote_is_still_read() -> None:
    old = '[model]\npath = "a\\u007f"\n\n[[model.lora]]\npath = "x"\nscale = 0.5\n'
    job = parse_job(tomllib.loads(old), "job.toml")
    assert job.model.path == "a\x7f"
    assert [(lora.path, lora.scale) for lora in job.model.lora] == [("x", 0.5)]


TEXTS = {
    "plain": "black-forest-labs/FLUX.1-dev",
    "quotes and backslashes": r'C:\new\models "quoted" \u0041 \/ ' + "'single'" + ' """three"""',
    "lines": "one\ntwo\r\nthree\rfour\ttab",
    "letters beyond 16 bits": "🐈‍⬛ 𝔘 \U0010ffff",
    "line separators": "\u2028 \u2029 \u0085 \ufeff \ufffe",
    "every control character": "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0)])),
    "right to left": "קנגורו \u202eevil\u202c",
    "empty": "",
}


@pytest.mark.parametrize("name", TEXTS)
def test_any_text_survives_being_written(name: str, tmp_path: Path) -> None:
    text = TEXTS[name]
    model = {"path": text, "lora": [{"path": text, "scale": 0.1}]}
    job = parse_job({"model": model, "sampling": {"negative_prompt": text}}, "")
    (tmp_path / "job.toml").write_bytes(to_toml(job).encode())
    assert load_job(tmp_path / "job.toml") == job


def test_loras_keep_their_order_and_scales() -> None:
    given = [("a", 1e-300), ("b" * 200, 1.0), ("a", -100.0)]
    loras = [{"path": path, "scale": scale} for path, scale in given]
    job = written_and_read(parse_job({"model": {"lora": loras}}, ""))
    assert [(lora.path, lora.scale) for lora in job.model.lora] == given


def test_numbers_at_their_ends_survive_being_written() -> None:
    sections = {
        "sampling": {"seed": 2**63 - 1, "guidance": 0.1, "true_cfg": 1e-7},
        "shards": {"pictures": 10**12},
        "output": {"lossless": True},
        "run": {"workers": 3, "time_limit_s": 1e16, "failure_budget": 0},
    }
    job = parse_job(sections, "")
    assert written_and_read(job) == job


def test_a_text_that_no_file_can_hold_is_refused() -> None:
    """A shell passes such a text for a file name that is not UTF-8."""
    assert "not valid UTF-8" in refusal("model.path=/models/\udcff")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("motor.x=4", "motor: unknown key; accepted here: model, "),
        (
            "engine.batchsize=4",
            "engine.batchsize: unknown key; accepted here: kind, device, attention, batch_size, ",
        ),
        (
            "model.lora=[{path='a', strength=2}]",
            "model.lora.0.strength: unknown key; accepted here: path, scale",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_accepted_ones(override: str, told: str) -> None:
    assert told in refusal(override)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sampling.steps='4'", "valid integer; sampling.steps is: denoising steps (default 28)"),
        ("sampling.steps='4'", "sampling.steps = '4': Input should be a valid integer"),
        ("sampling.steps=4.0", "valid integer"),
        ("sampling.steps=true", "valid integer"),
        (
            "sampling.width=100",
            "sampling.width = 100: Input should be a multiple of 16; sampling.width is: px, a mul",
        ),
        ("sampling.guidance=inf", "finite number"),
        ("sampling.seed=-1", "greater than or equal to 0"),
        (
            "output.lossless=1",
            "Input should be a valid boolean; output.lossless is: whether webp keeps ",
        ),
        ("output.format=gif", "'jpg', 'png' or 'webp'"),
        (
            "run.workers=0",
            "run.workers = 0: Input should be greater than or equal to 1; run.workers is: proc",
        ),
        ("run.workers=many", "run.workers = 'many': Input should be 'auto'"),
        ("cache.skip=['a']", "cache.skip.0 = 'a': Input should be a valid integer; cache.skip.0"),
        ("model.lora=[{scale=2.0}]", "model.lora.0.path: missing; it is: safetensors file"),
        (
            "model.lora=[{path='a', scale=nan}]",
            "model.lora.0.scale = nan: Input should be a finite",
        ),
        ("model.lora=[{path='a', scale=1e300}]", "scale = 1e+300: Input should be less than or eq"),
        ("model.lora=['a']", "model.lora.0 = 'a': expected a table; accepted in it: path, scale"),
        ("engine=pattern", "engine = 'pattern': expected a table; accepted in it: kind, device, "),
        ("model.path=5", "model.path = 5: Input should be a valid string"),
    ],
)
def test_an_impossible_value_is_told_with_what_the_key_means(override: str, told: str) -> None:
    assert told in refusal(override)


def test_all_problems_of_a_job_are_told_at_once() -> None:
    told = refusal("sampling.steps=0", "output.quality=101", "motor=1")
    for problem in ("sampling.steps = 0", "output.quality = 101", "motor: unknown"):
        assert problem in told


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("sampling.steps=4", "sampling", "steps", 4),
        (" sampling.steps = 4 ", "sampling", "steps", 4),
        ("sampling.guidance=3", "sampling", "guidance", 3.0),
        ("sampling.width=0x200", "sampling", "width", 512),
        ("output.license=cc-by-4.0", "output", "license", "cc-by-4.0"),
        ('output.license="5"', "output", "license", "5"),
        ("model.path=/models/FLUX.1 dev=new", "model", "path", "/models/FLUX.1 dev=new"),
        ("model.revision=", "model", "revision", ""),
        ("output.lossless=true", "output", "lossless", True),
        ("run.workers=auto", "run", "workers", "auto"),
    ],
)
def test_an_override_is_toml_or_a_bare_word(
    override: str, section: str, key: str, value: Any
) -> None:
    given = getattr(getattr(load_job(None, ["output.format=webp", override]), section), key)
    assert (type(given), given) == (type(value), value)


def test_a_whole_list_can_be_overridden() -> None:
    job = load_job(None, ["model.lora=[{path = 'a', scale = 0.5}, {path = 'b'}]"])
    assert [(lora.path, lora.scale) for lora in job.model.lora] == [("a", 0.5), ("b", 1.0)]


def test_of_two_overrides_the_last_counts_and_other_keys_stay(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text("[sampling]\nsteps = 9\nwidth = 64\n")
    job = load_job(tmp_path / "job.toml", ["sampling.steps=3", "sampling.steps=4"])
    assert (job.sampling.steps, job.sampling.width) == (4, 64)


@pytest.mark.parametrize(
    "override", ["sampling.steps", "=4", "sampling.=4", ".steps=4", "sampling..steps=4", ""]
)
def test_an_override_without_key_or_value_is_answered_with_an_example(override: str) -> None:
    expected = "expected section.key=value, for example --set sampling.steps=28"
    assert refusal(override) == f"--set {override}: {expected}"


def test_columns_of_the_command_line_win_over_those_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text('[manifest]\ncolumns = {prompt = "text", seed = "s"}\n')
    job = load_job(file, [], ["prompt=caption", "my seeds="])
    assert job.manifest.columns == {"prompt": "caption", "seed": "s", "my seeds": ""}
    assert written_and_read(job) == job


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["prompt"], "--column prompt: expected NAME=YOURS, for example --column prompt=caption"),
        (["=caption"], "--column =caption: expected NAME=YOURS"),
        (["seed=a", "seed=b"], "--column seed=a --column seed=b: only one of them can act"),
        (["seed=a", "seed="], "--column seed=a --column seed=: only one of them can act"),
    ],
)
def test_a_column_that_says_nothing_or_two_things_is_refused(columns: list[str], told: str) -> None:
    with pytest.raises(JobError) as error:
        load_job(None, [], columns)
    assert str(error.value).startswith(told)


def test_an_override_below_a_value_is_refused() -> None:
    assert refusal("model.path.name=x") == "--set model.path.name=x: path is a value, not a section"


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"[sampling]\nsteps = \xff\n", "cannot be read"), (b"steps = [", "not TOML")],
)
def test_an_unreadable_job_file_is_named(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_bytes(content)
    with pytest.raises(JobError, match=f"job.toml: {told}"):
        load_job(tmp_path / "job.toml")
    with pytest.raises(JobError, match="cannot be read"):
        load_job(tmp_path)


def test_a_job_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_job(None).sampling.steps = 4


def test_equal_jobs_are_one_key() -> None:
    one, other = (
        parse_job({"manifest": {"columns": {"prompt": "caption", "id": ""}}}, "") for _ in range(2)
    )
    assert len({one, other, parse_job({}, "")}) == 2
