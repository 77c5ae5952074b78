"""TOML job file → frozen, strict `Job`.

A job says how pictures are made, the manifest says which pictures. `jobs/*.toml` are examples to
copy. Keys that decide what a picture looks like belong to the run's fingerprint and are frozen with
the plan. `[run]` and `[pattern]` are operations: they may change from one `resume` to the next.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field

from batchgen.errors import JobError
from batchgen.settings.section import Section, apply_override, parse, read_toml, setting

MAX_SEED = 2**63 - 1
MAX_SIDE_PX = 16384

Side = Annotated[int, Field(ge=16, le=MAX_SIDE_PX, multiple_of=16)]
Scale = Annotated[float, Field(ge=0, le=100)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]


class Lora(Section):
    """A LoRA, fused into the transformer when the model is loaded."""

    path: str = Field(description="safetensors file")
    scale: float = setting(1.0, "strength; 1.0 as trained")


class Model(Section):
    """The weights that make the pictures."""

    path: str = setting("tiny", '"tiny" (embedded), a folder in diffusers layout, or a hub id')
    revision: str = setting("", "hub commit, tag or branch; empty: the default branch")
    max_sequence_length: int = setting(512, "T5 tokens to which prompts are padded", ge=8, le=512)
    long_prompts: Literal["refuse", "truncate"] = setting(
        "refuse", "what to do with prompts over max_sequence_length"
    )
    lora: tuple[Lora, ...] = setting((), "LoRAs, fused in this order", strict=False)


class Sampling(Section):
    """What a row of the manifest means where it lacks a column. A column that is there wins."""

    width: Side = setting(1024, "px, a multiple of 16")
    height: Side = setting(1024, "px, a multiple of 16")
    steps: int = setting(28, "denoising steps", ge=1, le=1000)
    guidance: Scale = setting(
        3.5, "FLUX's embedded guidance; Stable Diffusion 3's classifier-free guidance"
    )
    true_cfg: Scale = setting(1.0, "classifier-free guidance, used with a negative prompt")
    negative_prompt: str = setting("", '"" for none')
    images: int = setting(1, "pictures of a row", ge=1, le=100_000)
    seed: Seed = setting(0, "run seed: rows without a seed hash it with their id or index")


class EngineSettings(Section):
    """How pictures are computed."""

    kind: Literal["torch", "pattern"] = setting(
        "torch", '"pattern" draws test cards without a model: rehearsals'
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", '"auto": cuda where there is one')
    attention: Literal["auto", "cudnn", "flash", "fa3", "math"] = setting(
        "auto",
        'attention kernel; "auto": cudnn on Hopper and newer, flash on Ampere and Ada, else '
        "PyTorch's choice",
    )
    batch_size: int = setting(
        8, "pictures of a group, which is computed and resumed as a whole", ge=1, le=1024
    )
    offload: Literal["none", "text", "model", "layers"] = setting(
        "none",
        "what leaves the device while it is not needed: text encoders, every model, or single "
        "layers",
    )
    threads: int = setting(
        1, "CPU threads of a worker; they change rounding, so they are frozen", ge=1, le=1024
    )


class Precision(Section):
    """The number types in which the transformer and the text encoders compute."""

    linear: Literal["auto", "bf16", "fp32", "fp8", "int8"] = setting(
        "auto",
        '"auto": bf16 on cuda, fp32 on cpu; "fp8" or "int8": linear layers of the blocks in that '
        'type, the rest as with "auto"',
    )
    granularity: Literal["row", "tensor"] = setting(
        "row", "FP8 scales: one for each row, or one for the tensor"
    )
    text: Literal["none", "fp8", "int8"] = setting(
        "none", "type in which T5's weights are stored; T5 computes as before"
    )
    force: bool = setting(False, "allow what makes a picture depend on its neighbours")


class Cache(Section):
    """Which denoising steps are skipped. The decision is made for each picture."""

    policy: Literal["none", "first_block", "teacache", "adacache", "schedule", "replay"] = setting(
        "none", "how the steps to skip are chosen"
    )
    threshold: float = setting(
        0.08, "a step is skipped below this relative change; 0 skips none", ge=0
    )
    blocks: int = setting(1, "first_block: blocks computed before the decision", ge=1)
    warmup: int = setting(0, "steps at the start that are always computed", ge=0)
    max_consecutive: int | None = setting(
        None, "most steps skipped in a row; absent: any number", ge=1
    )
    taylor_order: int = setting(
        1, "order in sigma of the extrapolation of what is reused; 0: none", ge=0, le=2
    )
    skip: tuple[int, ...] = setting((), "schedule: the steps to skip, from 0", strict=False)
    trace: str = setting(
        "", "replay: metadata folder or file of another run, whose skipped steps are repeated"
    )


class Parallel(Section):
    """How many devices make one picture together."""

    cp: Annotated[int, Field(ge=1)] | Literal["auto"] = setting(
        "auto",
        'devices of a replica; "auto": one, which makes the most pictures in a GPU-hour. More '
        "devices finish one picture sooner",
    )
    ulysses: int = setting(
        0, "how many of the devices exchange heads; 0: as many as the heads allow", ge=0
    )
    ring: int = setting(
        0, "how many pass keys and values around; 0: the rest. ulysses · ring = cp", ge=0
    )

    @property
    def degree(self) -> int:
        """Devices of a replica.

        "auto" is 1: devices that share a picture's tokens each hold all weights, so two replicas
        of one device make more pictures than one replica of two.
        """
        return 1 if self.cp == "auto" else self.cp


class Compile(Section):
    """torch.compile of the transformer's blocks."""

    mode: Literal["auto", "none", "default", "max-autotune-no-cudagraphs"] = setting(
        "auto", '"auto": "default" on cuda, "none" on cpu and where layers are offloaded'
    )


class Output(Section):
    """How pictures are stored."""

    format: Literal["jpg", "png", "webp"] = setting("jpg", "image codec")
    quality: int = setting(95, "jpg (always 4:4:4) and lossy webp", ge=1, le=100)
    lossless: bool = setting(False, "webp only")
    license: str = setting("unknown", "licence named on the dataset card")


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
    )
    time_limit_s: float | None = setting(
        None, "wall time of a submission; no group begins that cannot finish in it", gt=0
    )


class PatternSettings(Section):
    """The speed of the pattern engine."""

    delay_s: float = setting(0.0, "seconds of a group", ge=0)


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
        """What decides pictures, tar files and their names, and so belongs to the fingerprint."""
        return self.model_dump(mode="json", exclude={"run", "pattern"})


def load_job(path: Path | None, overrides: list[str] | None = None) -> Job:
    """Read a job file and apply `section.key=value` overrides.

    :param path: TOML file; None for the job of the embedded tiny model.
    :param overrides: for example `["sampling.steps=4", "model.path=org/name"]`; a value is TOML,
        and what is not TOML is a string.
    :raises JobError: unreadable file, unknown key, impossible value; the message lists what is
        accepted.
    """
    content = _default_job() if path is None else _read(path)
    for override in overrides or []:
        apply_override(content, override, error=JobError)
    return parse_job(content, "the default job" if path is None else str(path))


def parse_job(content: dict[str, Any], where: str) -> Job:
    """Check the content of a job file; `where` names its origin in messages."""
    return parse(Job, content, where=where, error=JobError)


def to_toml(job: Job) -> str:
    """The whole job with every default, as TOML that `load_job` reads back to an equal Job."""
    heading = (
        "# The job of this run, with every default. [run] and [pattern] may change at a resume;\n"
        "# the rest is frozen with the plan.\n\n"
    )
    return heading + tomli_w.dumps(job.model_dump(exclude_none=True))


def _default_job() -> dict[str, Any]:
    """The job of `batchgen submit` without `--job`, which jobs/tiny.toml repeats."""
    return {
        "model": {"path": "tiny", "max_sequence_length": 32},
        "sampling": {"width": 128, "height": 128, "steps": 28},
        "output": {"license": "apache-2.0"},
    }


def _read(path: Path) -> dict[str, Any]:
    without = "Examples are in jobs/; without --job the embedded tiny model is used."
    return read_toml(path, error=JobError, missing=f"no such job file. {without}")
