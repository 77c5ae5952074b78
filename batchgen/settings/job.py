"""TOML job file → frozen, strict `Job`.

A job says how pictures are made; the manifest says which. `jobs/*.toml` are ready examples. Keys that decide what a picture
looks like are part of the run's fingerprint and frozen with it; `[run]` and `[pattern]` are operations and may change from one `resume`
to the next.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from batchgen.errors import JobError
from batchgen.settings.section import Section

MAX_SEED = 2**63 - 1
MAX_SIDE_PX = 16384

Side = Annotated[int, Field(ge=16, le=MAX_SIDE_PX, multiple_of=16)]


class Lora(Section):
    """A LoRA fused into the transformer at load."""

    path: str = Field(description="safetensors file")
    scale: float = Field(default=1.0, description="strength; 1.0 as trained")


class Model(Section):
    """Which weights paint."""

    path: str = Field(
        default="tiny", description='"tiny" (embedded), a folder in diffusers layout, or a hub id'
    )
    revision: str = Field(
        default="", description="hub commit, tag or branch; empty: the default branch"
    )
    max_sequence_length: int = Field(
        default=512, ge=8, le=512, description="tokens of the T5 encoder; prompts are padded to it"
    )
    long_prompts: Literal["refuse", "truncate"] = Field(
        default="refuse", description="what to do with prompts over max_sequence_length"
    )
    lora: tuple[Lora, ...] = Field(
        default=(), description="LoRAs, fused in this order", strict=False
    )


class Sampling(Section):
    """What a row means where its column is absent. The column, where present, wins."""

    width: Side = Field(default=1024, description="px, a multiple of 16")
    height: Side = Field(default=1024, description="px, a multiple of 16")
    steps: int = Field(default=28, ge=1, le=1000, description="denoising steps")
    guidance: float = Field(
        default=3.5,
        ge=0,
        le=100,
        description="guidance scale: FLUX's embedded one, Stable Diffusion 3's classifier-free one",
    )
    true_cfg: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description="classifier-free guidance scale, used with a negative prompt",
    )
    negative_prompt: str = Field(default="", description='"" for none')
    images: int = Field(default=1, ge=1, le=100_000, description="pictures of a row")
    seed: int = Field(
        default=0,
        ge=0,
        le=MAX_SEED,
        description="run seed: rows without a seed hash it with their id or index",
    )


class EngineSettings(Section):
    """How pictures are computed."""

    kind: Literal["torch", "pattern"] = Field(
        default="torch", description='"pattern" draws test cards without a model: rehearsals'
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description='"auto": cuda where there is one'
    )
    attention: Literal["auto", "cudnn", "flash", "fa3", "math"] = Field(
        default="auto",
        description='attention kernel; "auto": cudnn on Hopper and newer, flash on Ampere and Ada, else PyTorch\'s choice',
    )
    batch_size: int = Field(
        default=8,
        ge=1,
        le=1024,
        description="pictures of a group: the unit of computing and of resuming",
    )
    offload: Literal["none", "text", "model", "layers"] = Field(
        default="none",
        description="what leaves the device while it is not needed: text encoders, every model, or single layers",
    )
    threads: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="CPU threads a worker; they change rounding, so they are frozen",
    )


class Precision(Section):
    """In which numbers the transformer and the text encoders compute."""

    linear: Literal["auto", "bf16", "fp32", "fp8", "int8"] = Field(
        default="auto",
        description='"auto": bf16 on cuda, fp32 on cpu; "fp8", "int8": the blocks\' linears so, the rest as with "auto"',
    )
    granularity: Literal["row", "tensor"] = Field(
        default="row", description="fp8 scales: one a row, or one a tensor"
    )
    text: Literal["none", "fp8", "int8"] = Field(
        default="none", description="T5's weights, stored so and computed in the model's type"
    )
    force: bool = Field(
        default=False, description="allow what makes a picture depend on its neighbours"
    )


class Cache(Section):
    """Which denoising steps are skipped, decided for each picture."""

    policy: Literal["none", "first_block", "teacache", "adacache", "schedule", "replay"] = Field(
        default="none", description="how it is decided"
    )
    threshold: float = Field(
        default=0.08, ge=0, description="a step is skipped below this relative change; 0 skips none"
    )
    blocks: int = Field(
        default=1, ge=1, description="first_block: blocks computed before it is decided"
    )
    warmup: int = Field(default=0, ge=0, description="steps at the start that are always computed")
    max_consecutive: int | None = Field(
        default=None, ge=1, description="steps skipped in a row at most; absent: any number"
    )
    taylor_order: int = Field(
        default=1,
        ge=0,
        le=2,
        description="order in which what is reused is extrapolated over the noise level; 0: not",
    )
    skip: tuple[int, ...] = Field(
        default=(), description="schedule: the steps to skip, from 0", strict=False
    )
    trace: str = Field(
        default="",
        description="replay: metadata folder or file of another run, whose skipped steps are repeated",
    )


class Parallel(Section):
    """How many devices make one picture together."""

    cp: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto",
        description='devices a replica; "auto": one, for that makes most pictures a GPU-hour. More paint one picture sooner',
    )
    ulysses: int = Field(
        default=0,
        ge=0,
        description="of those, how many exchange heads; 0: as many as the heads allow",
    )
    ring: int = Field(
        default=0,
        ge=0,
        description="and how many pass keys and values around; 0: the rest. ulysses · ring = cp",
    )

    @property
    def degree(self) -> int:
        """Devices a replica. Splitting tokens does not split weights, so "auto" is 1: two replicas make more pictures than a pair."""
        return 1 if self.cp == "auto" else self.cp


class Compile(Section):
    """torch.compile of the transformer's blocks."""

    mode: Literal["auto", "none", "default", "max-autotune-no-cudagraphs"] = Field(
        default="auto",
        description='"auto": "default" on cuda, "none" on cpu and where layers are offloaded',
    )


class Output(Section):
    """How pictures are stored."""

    format: Literal["jpg", "png", "webp"] = Field(default="jpg", description="image codec")
    quality: int = Field(default=95, ge=1, le=100, description="jpg (always 4:4:4) and lossy webp")
    lossless: bool = Field(default=False, description="webp only")
    license: str = Field(
        default="unknown", description="licence identifier written to the dataset card"
    )


class Shards(Section):
    """How the manifest is cut."""

    pictures: int | None = Field(
        default=None,
        ge=1,
        description="pictures a shard; absent: about 15 minutes or 1 GB of work, less for small runs",
    )


class RunSettings(Section):
    """Operations: may change at every `resume`."""

    workers: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description='processes; "auto": one a GPU, else one a CPU core'
    )
    failure_budget: float = Field(
        default=0.05,
        ge=0,
        le=1,
        description="share of the pictures (and never under 10) that may fail before the run stops",
    )
    group_timeout_s: float = Field(
        default=1800.0,
        gt=0,
        description="a group that takes longer is taken for a hang: the worker ends itself",
    )
    compile_cache: str = Field(
        default="", description="folder for compiled kernels; empty: ~/.cache/batchgen/compile"
    )
    quantized_weights: str = Field(
        default="",
        description="folder for 8-bit weights: the first worker writes them, later ones read them; empty: each makes its own",
    )
    time_limit_s: float | None = Field(
        default=None,
        gt=0,
        description="wall time of a submission; no group begins that cannot finish in it",
    )


class PatternSettings(Section):
    """The pattern engine's pace."""

    delay_s: float = Field(default=0.0, ge=0, description="seconds a group")


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
    shards: Shards = Shards()
    run: RunSettings = RunSettings()
    pattern: PatternSettings = PatternSettings()

    def identity(self) -> dict[str, Any]:
        """The part that decides pictures, tar files and their names: what the fingerprint covers."""
        return self.model_dump(mode="json", exclude={"run", "pattern"})


def load_job(path: Path | None, overrides: list[str] | None = None) -> Job:
    """Read a job file and apply `section.key=value` overrides.

    :param path: TOML file; None for the embedded tiny model's job.
    :param overrides: e.g. `["sampling.steps=4", "model.path=black-forest-labs/FLUX.1-dev"]`; values are TOML, a bare word is a string.
    :raises JobError: unreadable file, unknown key, impossible value; the message lists what is accepted.
    """
    where = str(path) if path else "the default job"
    tree = _read_toml(path) if path else _default_tree()
    for override in overrides or []:
        _apply(tree, override)
    return parse_job(tree, where)


def parse_job(tree: dict[str, Any], where: str) -> Job:
    """Validate a parsed tree; `where` names its origin in messages."""
    try:
        return Job.model_validate(tree)
    except ValidationError as error:
        lines = [
            _explain(tuple(e["loc"]), e["msg"], e["type"], e.get("input")) for e in error.errors()
        ]
        raise JobError(f"{where}:\n  " + "\n  ".join(lines)) from None


def _default_tree() -> dict[str, Any]:
    """The embedded tiny model's job: what `batchgen submit` uses without `--job`; jobs/tiny.toml spells it out."""
    return {
        "model": {"path": "tiny", "max_sequence_length": 32},
        "sampling": {"width": 128, "height": 128, "steps": 28},
        "output": {"license": "apache-2.0"},
    }


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise JobError(
            f"{path}: no such job file. Ready ones are in jobs/; without --job the embedded tiny model is used."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise JobError(f"{path}: cannot be read as a TOML file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JobError(f"{path}: not TOML: {error}") from None


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    parts = name.strip().split(".")
    if not equals or not all(parts):
        raise JobError(
            f"--set {override}: expected section.key=value, for example --set sampling.steps=28"
        )
    if any("\ud800" <= letter <= "\udfff" for letter in value):  # no TOML file could hold it
        raise JobError(f"--set {override!r}: not valid UTF-8; rename the file or folder")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in parts[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise JobError(f"--set {override}: {part} is a value, not a section")
    tree[parts[-1]] = parsed


def _explain(loc: tuple[Any, ...], message: str, kind: str, given: Any) -> str:
    section, field, known = _locate(loc)
    if kind == "extra_forbidden":
        return f"{_dotted(loc)}: unknown key; accepted here: {', '.join(section.model_fields)}"
    name = _dotted(known)
    what = field.description if field is not None and field.description else ""
    default = (
        f" (default {field.default!r})" if field is not None and not field.is_required() else ""
    )
    return f"{name} = {given!r}: {message}" + (f"; {name} is: {what}{default}" if what else "")


def _dotted(loc: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in loc)


def _locate(loc: tuple[Any, ...]) -> tuple[type[Section], Any, tuple[Any, ...]]:
    """The section a location lies in, the field it names, and the location as far as it is known."""
    section: type[Section] = Job
    field = None
    for place, part in enumerate(loc):
        if isinstance(part, int):
            continue
        if part not in section.model_fields:  # unknown, or one of the types that a key may have
            return section, field, loc[:place]
        field = section.model_fields[part]
        inner = Lora if part == "lora" else field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            section = inner
    return section, field, loc


def to_toml(job: Job) -> str:
    """The whole job, defaults spelled out, as TOML that `load_job` reads back to an equal Job."""
    lines = [
        "# The job of this run, every default spelled out. [run] and [pattern] may change at a resume; the rest is frozen with the plan."
    ]
    for name, section in job.model_dump(mode="json").items():
        loras = section.pop("lora", [])
        lines += [
            "",
            f"[{name}]",
            *(f"{key} = {_toml(value)}" for key, value in section.items() if value is not None),
        ]
        for lora in loras:
            lines += [
                "",
                f"[[{name}.lora]]",
                *(f"{key} = {_toml(value)}" for key, value in lora.items()),
            ]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """A string, number or truth value. JSON's escapes are TOML's, but for surrogate pairs, so letters stay as they are; DEL must not."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
