"""What was asked for and changes no picture: of the job it is refused, of the manifest it is told.

Only keys count that somebody wrote; defaults ask for nothing. A cache that can hardly act, because
there are few steps, is told too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from batchgen.errors import JobError, counted, one_line
from batchgen.manifest import Effects
from batchgen.model import Guidance
from batchgen.planning.plan import Shape
from batchgen.settings import Job, unread

# Distilled models have 4 to 9 steps. By the policies' defaults the embedded model computes all of
# 4 and of 6 steps; of 8 and of 9 it computes 6 with multistep, and all with first_block.
_FEW_STEPS = 9
_MEASURING = ("multistep", "first_block", "teacache")


def refuse_without_effect(job: Job, effects: Effects) -> None:
    """Check that every value of `[sampling]` changes a picture in some row that takes it.

    Also that there is something to share where halves of a replica share guidance's rows.

    :raises JobError: a value that was written changes none; the message says what would act.
    """
    if (guidance := effects.guidance) is None:
        return
    idle = [
        name
        for name, rows in effects.idle_from_job.items()
        if name in job.sampling.model_fields_set and rows and rows == effects.from_job[name]
    ]
    reasons = [_refusal(job, name, guidance) for name in sorted(idle)]
    if job.parallel.halves > 1 and not effects.contrasted:
        reasons.append(
            f"parallel.cfg = {job.parallel.halves}: no row has classifier-free guidance, whose two "
            f"branches the halves would share; it acts where {guidance.contrast}. Leave "
            "parallel.cfg out: single devices make more pictures an hour"
        )
    if reasons:
        raise JobError("\n".join(reasons))


def _refusal(job: Job, name: str, guidance: Guidance) -> str:
    value = getattr(job.sampling, name)
    told = f'"{one_line(value[:60])}"' if isinstance(value, str) else f"{value:g}"
    remedy = "Leave"
    if name == "negative_prompt":
        remedy = f"--set sampling.{'guidance' if guidance.contrasts else 'true_cfg'}=4, or leave"
    return (
        f"sampling.{name} = {told} changes no picture: {guidance.condition(name)}. {remedy} "
        f"sampling.{name} out"
    )


def idle_columns(effects: Effects) -> Iterator[str]:
    """A sentence for each column with values that change nothing."""
    for name, rows in sorted(effects.idle.items()):
        if rows and effects.guidance:
            values = counted(rows, "row has", "rows have")
            condition = effects.guidance.condition(name)
            yield f"{values} a {name} that changes nothing: {condition}"


def unused_keys(job: Job, effects: Effects) -> Iterator[str]:
    """A sentence for each key that was written and is not used."""
    for key, other, value, _ in unread(job):
        yield f"{key} of the job is not used: {other} is {json.dumps(value)}"
    for name, rows in effects.from_job.items():
        if not rows and name in job.sampling.model_fields_set:
            yield f"sampling.{name} of the job is not used: every row has a {name} of its own"


def notes_on_cache(job: Job, shapes: Sequence[Shape]) -> Iterator[str]:
    """A sentence if many pictures have too few steps for the cache to skip much.

    Schedules are not told of: whoever has one has measured, or has named the steps.
    """
    policy = job.cache.policy
    few = sum(shape.pictures for shape in shapes if shape.steps <= _FEW_STEPS)
    if few and policy in _MEASURING and not job.cache.classes:
        have = counted(few, "picture has", "pictures have")
        yield (
            f'cache.policy = "{policy}": {have} at most {_FEW_STEPS} steps, so far apart that one '
            "tells little of the next, and few or none are skipped. batchgen calibrate measures "
            "what the cache brings; --set cache.policy=none makes the pictures without it"
        )
