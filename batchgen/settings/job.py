"""TOML job file → frozen, strict `Job`.

A job says how pictures are made, the manifest says which pictures. `jobs/*.toml` are examples to
copy. Keys that decide what a picture looks like belong to the run's fingerprint and are frozen with
the plan. No picture depends on `[run]`, `[audit]`, `[splits]` and `[pattern]`: they may change from
one `resume` to the next.

A key that was written and that nothing reads is refused (`written.py`). A rehearsal
(`engine.kind = "pattern"`) stands in for the real run: what only a model reads may be written.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from batchgen.errors import JobError, shell_command
from batchgen.settings.audit import Audit
from batchgen.settings.engine import QUANTIZED, Cache, Compile, EngineSettings, Parallel, Precision
from batchgen.settings.noise_levels import Sigmas
from batchgen.settings.output import Output
from batchgen.settings.ready_jobs import find_job, ready_jobs
from batchgen.settings.score import Score
from batchgen.settings.section import Section, apply_override, parse, read_toml, setting
from batchgen.settings.splits import Splits
from batchgen.settings.written import mark_written, refuse_unread

MAX_SEED = 2**63 - 1
MAX_SIDE_PX = 16384

Side = Annotated[int, Field(ge=16, le=MAX_SIDE_PX, multiple_of=16)]
Scale = Annotated[float, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]

# How the file begins that `to_toml` writes. batchgen 0.1.0 wrote the same words.
_RECORDED = "# The job of this run, "


class Lora(Section):
    """A LoRA, fused into transformer and text encoders when the model is loaded."""

    path: str = Field(description="safetensors file")
    scale: float = setting(1.0, "strength; 1.0 as trained, 0 for none", ge=-100, le=100)


class Model(Section):
    """The weights that make the pictures."""

    path: str = setting("tiny", '"tiny" (embedded), a folder in diffusers layout, or a hub id')
    revision: str = setting("", "hub commit, tag or branch; empty: the default branch")
    max_sequence_length: int = setting(
        512, "tokens to which prompts are padded, a chat template's among them", ge=8, le=512
    )
    long_prompts: Literal["refuse", "truncate"] = setting(
        "refuse", "what to do with prompts over max_sequence_length"
    )
    lora: tuple[Lora, ...] = setting((), "LoRAs, fused in this order", strict=False)


class Sampling(Section):
    """What a row of the manifest means where it lacks a column. A column that is there wins."""

    width: Side = setting(1024, "px, a multiple of 16")
    height: Side = setting(1024, "px, a multiple of 16")
    steps: int = setting(28, "denoising steps", ge=1, le=1000)
    shift: float | None = setting(
        None,
        "how far noise levels are moved towards noise, at every size: σ → shift·σ / "
        "(1 + (shift - 1)·σ); absent: as the model's scheduler does",
        ge=0.01,
        le=100,
    )
    sigmas: Sigmas = setting(
        (), "noise level of each step, before the shift; absent: evenly spaced", strict=False
    )
    guidance: Scale = setting(
        3.5,
        "embedded in FLUX.1 and FLUX.2 dev; the scale of classifier-free guidance in Chroma, "
        "ERNIE-Image, FLUX.2 klein base, Qwen-Image, Stable Diffusion 3 and Z-Image",
    )
    true_cfg: Scale = setting(1.0, "classifier-free guidance, used with a negative prompt")
    negative_prompt: str = setting("", '"" for none')
    images: int = setting(1, "pictures of a row", ge=1, le=100_000)
    seed: Seed = setting(0, "run seed: rows without a seed hash it with their id or index")


class ManifestSettings(Section):
    """How the columns of the manifest are read."""

    columns: dict[str, str] = setting(
        {},
        'a name of ours = the manifest\'s column for it, as in prompt = "caption"; '
        'a name of the manifest = "" lets that column travel along',
    )

    def __hash__(self) -> int:
        """A job can be a key, also with a table of columns."""
        return hash(frozenset(self.columns.items()))


class Shards(Section):
    """How the manifest is cut."""

    pictures: int | None = setting(
        None, "pictures of a shard; absent: about 15 minutes or 1 GB, less for small runs", ge=1
    )


class RunSettings(Section):
    """Operations, which may change at every `resume`."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto", 'processes; "auto": one for each GPU, else one for each CPU core'
    )
    failure_budget: float = setting(
        0.05,
        "share of the pictures that may fail before the run stops; 10 pictures may always fail",
        ge=0,
        le=1,
    )
    group_timeout_s: float = setting(
        1800.0, "a group that takes longer is taken for a hang: the worker ends itself", gt=0
    )
    compile_cache: str = setting(
        "", "folder for compiled kernels; empty: ~/.cache/batchgen/compile"
    )
    quantized_weights: str = setting(
        "",
        "folder for 8-bit weights: the first worker writes them, later ones read them; empty: "
        "each worker makes its own",
        read_with=QUANTIZED,
    )
    time_limit_s: float | None = setting(
        None, "wall time of a submission; no group begins that cannot finish in it", gt=0
    )


class PatternSettings(Section):
    """The speed of the pattern engine."""

    delay_s: float = setting(
        0.0, "seconds of a group", ge=0, read_with={"engine.kind": ("pattern",)}
    )


class Job(Section):
    """A whole job file."""

    model: Model = Model()
    sampling: Sampling = Sampling()
    engine: EngineSettings = EngineSettings()
    precision: Precision = Precision()
    cache: Cache = Cache()
    parallel: Parallel = Parallel()
    compile: Compile = Compile()
    output: Output = Output()
    manifest: ManifestSettings = ManifestSettings()
    shards: Shards = Shards()
    run: RunSettings = RunSettings()
    audit: Audit = Audit()
    splits: Splits = Splits()
    score: Score = Score()
    pattern: PatternSettings = PatternSettings()

    @property
    def audited_share(self) -> float:
        """The share of the pictures that are audited: about it, for a hash chooses them."""
        return 0.0 if self.cache.policy == "none" else self.audit.fraction

    def audits(self, key: int) -> bool:
        """Whether the picture of this key is audited."""
        return self.audited_share > 0 and self.audit.chooses(key, self.sampling.seed)

    def identity(self) -> dict[str, Any]:
        """What decides pictures, tar files and their names, and so belongs to the fingerprint.

        Of `[manifest]` only a part decides them, and of `[score]` the weights (`identify_run`).
        """
        return self.model_dump(
            mode="json", exclude={"run", "audit", "splits", "score", "pattern", "manifest"}
        )


def load_job(
    path: Path | None, overrides: list[str] | None = None, columns: Sequence[str] = ()
) -> Job:
    """Read a job file and apply `section.key=value` overrides.

    In each section, `model_fields_set` are the keys of the file and of the overrides. The default
    job and the job file of a run, which spells out every default, count as nothing written.

    :param path: TOML file, or the name of one that comes with batchgen; None for the job of the
        embedded tiny model.
    :param overrides: for example `["sampling.steps=4", "model.path=org/name"]`; a value is TOML,
        and what is not TOML is a string.
    :param columns: entries of `[manifest] columns`, for example `["prompt=caption", "seeds="]`.
    :raises JobError: unreadable file, unknown key, impossible value, or a key that was written and
        is not read; the message lists what is accepted.
    """
    path = None if path is None else find_job(path)
    content = _default_job() if path is None else _read(path)
    written = {} if path is None or _is_recorded(path) else copy.deepcopy(content)
    for override in overrides or []:
        apply_override(content, override, error=JobError)
        apply_override(written, override, error=JobError)
    _refuse_two_columns(columns)
    for column in columns:
        _apply_column(content, column)
        _apply_column(written, column)
    where = "the default job" if path is None else str(path)
    job = mark_written(parse_job(content, where), written)
    overridden = {override.partition("=")[0].strip() for override in overrides or []}
    refuse_unread(job, overridden, where=where, error=JobError)
    return job


def parse_job(content: dict[str, Any], where: str) -> Job:
    """Check the content of a job file; `where` names its origin in messages."""
    return parse(Job, content, where=where, error=JobError)


def to_toml(job: Job) -> str:
    """The whole job with every default, as TOML that `load_job` reads back to an equal Job."""
    heading = (
        f"{_RECORDED}with every default. [run], [audit], [splits] and [pattern] may change at a\n"
        "# resume; the rest is frozen with the plan.\n\n"
    )
    return heading + tomli_w.dumps(job.model_dump(exclude_none=True))


def _refuse_two_columns(options: Sequence[str]) -> None:
    """Refuse to read two columns as one.

    :raises JobError: two of the options are about the same name.
    """
    first: dict[str, str] = {}
    for option in options:
        other = first.setdefault(option.partition("=")[0], option)
        if other != option:
            raise JobError(
                f"{shell_command('--column', other, '--column', option)}: only one of them can "
                "act; leave the other out"
            )


def _apply_column(content: dict[str, Any], option: str) -> None:
    """Put the value of a `--column` into the content of a job file.

    :raises JobError: it is not of the form NAME=COLUMN or COLUMN=.
    """
    name, equals, column = option.partition("=")
    if not equals or not name:
        raise JobError(
            f"{shell_command('--column', option)}: expected NAME=YOURS, for example "
            "--column prompt=caption, or YOURS= to let a column travel along"
        )
    if "manifest" not in content or isinstance(content["manifest"], dict):
        columns = content.setdefault("manifest", {}).setdefault("columns", {})
        if isinstance(columns, dict):  # else the job file is refused for it
            columns[name] = column


def _default_job() -> dict[str, Any]:
    """The job of `batchgen submit` without `--job`, which jobs/tiny.toml repeats."""
    return {
        "model": {"path": "tiny", "max_sequence_length": 32},
        "sampling": {"width": 128, "height": 128, "steps": 28},
        "output": {"license": "apache-2.0"},
    }


def _read(path: Path) -> dict[str, Any]:
    missing = (
        f"no such job file. Ready ones, to be named without a folder: {', '.join(ready_jobs())}. "
        "Without --job the embedded tiny model is used."
    )
    return read_toml(path, error=JobError, missing=missing)


def _is_recorded(path: Path) -> bool:
    """Whether batchgen wrote a job file."""
    with path.open(encoding="utf-8") as file:
        return file.read(len(_RECORDED)) == _RECORDED
