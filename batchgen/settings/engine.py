"""How pictures are computed: `[engine]` and the sections of its techniques."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from batchgen.settings.schedule import ClassSchedule
from batchgen.settings.section import Section, setting

# Where keys are read: the values of other keys, as `setting` takes them.
QUANTIZED = {"precision.linear": ("fp8", "int8")}
# Policies that compare a measured change with a threshold.
_MEASURING = {"cache.policy": ("first_block", "teacache", "adacache")}
_PROBING = {"cache.policy": ("first_block", "replay")}
_CACHING = {"cache.policy": ("first_block", "teacache", "adacache", "schedule", "replay")}
_SCHEDULED = {"cache.policy": ("schedule", "multistep")}
# The threshold of a policy where it is not that of the key. Policies measure different changes.
_THRESHOLDS = {"teacache": 0.4, "adacache": 0.02}


class EngineSettings(Section):
    """How pictures are computed."""

    kind: Literal["torch", "pattern"] = setting(
        "torch", '"pattern" draws test cards without a model: rehearsals'
    )
    device: Literal["auto", "cpu", "cuda"] = setting(
        "auto", '"auto": cuda where there is one; CUDA_VISIBLE_DEVICES says which cards'
    )
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
        "blocks",
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
        "row", "8-bit scales: one for each row, or one for the tensor", read_with=QUANTIZED
    )
    text: Literal["none", "fp8", "int8"] = setting(
        "none", "type in which the largest text encoder's weights are stored; it computes as before"
    )
    force: bool = setting(
        False,
        "allow what makes a picture depend on its neighbours",
        read_with={"precision.linear": ("fp8",), "precision.granularity": ("tensor",)},
    )


class Cache(Section):
    """Which denoising steps are skipped. The decision is made for each picture."""

    policy: Literal[
        "none", "multistep", "first_block", "teacache", "adacache", "schedule", "replay"
    ] = setting("none", "how the steps to skip are chosen")
    threshold: float = setting(
        0.08,
        "a step is skipped below this relative change; 0 skips none. Where it is absent, teacache "
        f"has {_THRESHOLDS['teacache']:g} and adacache {_THRESHOLDS['adacache']:g}",
        ge=0,
        read_with=_MEASURING,
    )
    tolerance: float = setting(
        0.05,
        "how far predicted latents may be off, where the noise has a standard deviation of 1; "
        "smaller computes more steps",
        gt=0,
        read_with={"cache.policy": ("multistep",), "cache.schedule": ("",)},
    )
    blocks: int = setting(
        1,
        "blocks computed before the decision; 0, for replay only: a skipped step computes nothing",
        ge=0,
        read_with=_PROBING,
    )
    warmup: int = setting(
        0, "steps at the start that are always computed", ge=0, read_with=_MEASURING
    )
    max_consecutive: int | None = setting(
        None, "most steps skipped in a row; absent: any number", ge=1, read_with=_MEASURING
    )
    taylor_order: int = setting(
        1,
        "order in sigma of the polynomial that predicts a skipped step; 0: repeat the last one",
        ge=0,
        le=2,
        read_with=_CACHING,
    )
    skip: tuple[int, ...] = setting(
        (),
        "the steps to skip, from 0, for all pictures",
        strict=False,
        read_with={"cache.policy": ("schedule",)},
    )
    schedule: str = setting(
        "",
        "file of `batchgen calibrate` that says which steps each class of pictures computes; "
        "multistep starts from them",
        read_with=_SCHEDULED,
    )
    classes: tuple[ClassSchedule, ...] = setting(
        (), "the same, written in the job: a table a class", strict=False, read_with=_SCHEDULED
    )
    record: bool = setting(
        False,
        "record the inner products of every picture's velocities, from which schedules are found",
        read_with={"cache.policy": ("none",)},
    )
    trace: str = setting(
        "",
        "metadata folder or file of another run, whose skipped steps are repeated",
        read_with={"cache.policy": ("replay",)},
    )

    @model_validator(mode="before")
    @classmethod
    def _threshold_of_policy(cls, content: Any) -> Any:
        """Fill in the policy's threshold where none is given."""
        policy = content.get("policy") if isinstance(content, Mapping) else None
        if isinstance(policy, str) and policy in _THRESHOLDS:
            return {"threshold": _THRESHOLDS[policy], **content}
        return content


class Parallel(Section):
    """How many devices make one picture together: a replica has cp · cfg of them."""

    cp: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = setting(
        "auto",
        'devices that share the tokens of a picture; "auto": one, which makes the most pictures in '
        "a GPU-hour. More devices finish one picture sooner",
    )
    cfg: Annotated[int, Field(ge=1, le=2)] | Literal["auto"] = setting(
        "auto",
        "2: half of a replica's devices compute the prompts, the others the negative prompts of "
        'classifier-free guidance; "auto": 1, as with cp',
    )
    ulysses: int = setting(
        0, "how many of the devices exchange heads; 0: as many as the heads allow", ge=0
    )
    ring: int = setting(
        0, "how many pass keys and values around; 0: the rest. ulysses · ring = cp", ge=0
    )

    @property
    def shared(self) -> int:
        """Devices that share the tokens of a row.

        "auto" is 1: devices that make a picture together each hold all weights, so two replicas of
        one device make more pictures than one replica of two.
        """
        return 1 if self.cp == "auto" else self.cp

    @property
    def halves(self) -> int:
        """2 where halves of a replica share the rows of classifier-free guidance, else 1."""
        return 1 if self.cfg == "auto" else self.cfg

    @property
    def degree(self) -> int:
        """Devices of a replica."""
        return self.shared * self.halves

    @property
    def spelled(self) -> str:
        """Devices of a replica, as the job spells them; for messages."""
        if self.halves == 1:
            return f"parallel.cp = {self.shared}"
        return f"parallel.cp * parallel.cfg = {self.shared} * {self.halves} = {self.degree}"


class Compile(Section):
    """torch.compile of the transformer's blocks."""

    mode: Literal["auto", "none", "default", "max-autotune-no-cudagraphs"] = setting(
        "auto", '"auto": "default" on cuda, "none" on cpu and where layers are offloaded'
    )
