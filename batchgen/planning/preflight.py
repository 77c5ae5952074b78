"""What a job asks for and cannot have, told before anything starts.

`refuse_impossible` needs the job and the model's configuration. `refuse_unfit` needs the plan too.
Each tells everything it finds at once. They refuse nothing for what is not known of the devices:
there the engine refuses when it is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from batchgen.engine.cache import make_policy
from batchgen.engine.parallel.mesh import check_shares, choose_mesh
from batchgen.engine.precision.rules import check_independence, check_precision, check_tokens
from batchgen.engine.rules import (
    check_attention,
    check_compile_cache,
    check_offload,
    check_offload_compiles,
    check_true_cfg,
)
from batchgen.errors import JobError, counted
from batchgen.model import Checkpoint
from batchgen.planning.hardware import UNKNOWN, Hardware, check_enough
from batchgen.planning.memory_fit import shortage
from batchgen.planning.noise_levels import check_fewest_steps, check_levels
from batchgen.planning.plan import Plan
from batchgen.settings import Job, Section, place

# Stands for a CUDA card of unknown capability: it is taken to compute everything.
_ANY_CARD = (99, 0)
# An audit that is expected to choose so many pictures chooses at least one, but for one run in
# 10^21; and so many keys are looked at in less than a second.
_SURELY, _FEW = 50, 200_000


def refuse_impossible(
    job: Job, checkpoint: Checkpoint | None, hardware: Hardware = UNKNOWN
) -> None:
    """Check what the engine would refuse when it is built.

    :param checkpoint: None for test cards, which need nothing.
    :raises JobError: every reason, a line each.
    """
    if checkpoint is not None:
        _raise_all(
            line for check in _checks(job, checkpoint, hardware) for line in _objections(check)
        )


def refuse_unfit(
    job: Job, checkpoint: Checkpoint | None, plan: Plan, hardware: Hardware = UNKNOWN
) -> None:
    """Check that the devices can compute the planned pictures as the job asks, within their memory.

    :raises JobError: every reason, and what would help.
    """
    if checkpoint is not None:
        _raise_all(_misfits(job, checkpoint, plan, hardware))


def _checks(job: Job, checkpoint: Checkpoint, hardware: Hardware) -> Iterator[Callable[[], object]]:
    asked, parallel, offload = job.precision, job.parallel, job.engine.offload
    linear, granularity = asked.linear, asked.granularity
    capability = None if hardware.cuda is False else hardware.capability or _ANY_CARD
    yield lambda: check_enough(job, hardware.devices or ())
    yield lambda: choose_mesh(parallel.shared, parallel.ulysses, parallel.ring, checkpoint.heads)
    yield lambda: make_policy(job.cache, checkpoint.family, checkpoint.blocks)
    yield lambda: check_precision(linear, granularity, capability)
    yield lambda: check_independence(
        linear,
        granularity,
        cp=parallel.shared,
        cfg=parallel.halves,
        group=job.engine.batch_size,
        force=asked.force,
    )
    yield lambda: check_offload_compiles(offload, job.compile.mode)
    yield lambda: check_offload(offload, cuda=hardware.cuda, where=hardware.name)
    yield lambda: check_attention(
        job.engine.attention,
        cuda=hardware.cuda,
        capability=hardware.capability,
        fp32=linear == "fp32",
        where=hardware.name,
    )
    yield lambda: check_compile_cache(
        job.run.compile_cache if _is_written(job.run, "compile_cache") else "",
        job.compile.mode,
        offload,
        cuda=hardware.cuda is not False,
        where=hardware.name,
    )
    yield lambda: check_true_cfg(job.sampling.true_cfg, contrasts=checkpoint.contrasts)
    yield lambda: check_levels(job.sampling, checkpoint)


def _misfits(job: Job, checkpoint: Checkpoint, plan: Plan, hardware: Hardware) -> Iterator[str]:
    yield from _idle_cache(job, max(shape.steps for shape in plan.shapes))
    yield from _idle_audit(job, plan.pictures)
    fewest = min(shape.steps for shape in plan.shapes)
    yield from _objections(partial(check_fewest_steps, job.sampling, checkpoint, fewest))
    smallest = min(plan.shapes, key=lambda shape: shape.width * shape.height)
    linear, ranks, cuda = job.precision.linear, job.parallel.shared, bool(hardware.cuda)
    tokens = checkpoint.tokens(smallest.width, smallest.height, job.model.max_sequence_length)
    size = f"a picture of {smallest.width}×{smallest.height} px"
    for length, what in zip(tokens, (size, "a prompt"), strict=True):
        yield from _objections(partial(check_shares, length, ranks, what))
    yield from _objections(lambda: check_tokens(linear, tokens, ranks, cuda=cuda))
    yield from shortage(job, checkpoint, plan, hardware)


def _idle_cache(job: Job, most: int) -> Iterator[str]:
    """A message if the cache could skip no step.

    :param most: steps of the planned picture with the most.
    """
    cache, planned = job.cache, f"the planned pictures have at most {counted(most, 'step')}"
    always = {"none": 0, "schedule": 0, "multistep": 2}.get(cache.policy, 1)
    if cache.policy == "schedule" and cache.skip and min(cache.skip) >= most:
        yield f"cache.skip = {list(cache.skip)}: {planned}, counted from 0"
    if cache.policy == "schedule" and cache.classes and not any(c.skipped for c in cache.classes):
        yield "cache.classes: every step is computed, so none would be skipped; leave [cache] out"
    if cache.policy in ("first_block", "teacache", "adacache") and cache.warmup >= most:
        yield f"cache.warmup = {cache.warmup}: {planned}, so none would be skipped; take fewer"
    # A run that an older version planned goes on: its job counts as not written.
    elif most <= always and _is_written(cache, "policy"):
        which = "the first and the last are" if always == 2 else "the first is"
        yield (
            f'cache.policy = "{cache.policy}": {planned}, and {which} always computed, so none '
            "would be skipped. --set cache.policy=none"
        )


def _idle_audit(job: Job, pictures: int) -> Iterator[str]:
    """A message if the audit would choose no picture of a small run."""
    share = job.audited_share
    if not 0 < share * pictures < _SURELY or pictures > _FEW:
        return
    least = min(place(key, job.sampling.seed) for key in range(pictures))
    if share <= least:
        none = f"audit.fraction = {share:g}: it chooses none of {counted(pictures, 'picture')}"
        enough = (math.floor(least * 1000) + 1) / 1000
        yield f"{none}. --set audit.fraction={enough:g} chooses one; or leave [audit] out"


def _is_written(section: Section, key: str) -> bool:
    """Whether somebody wrote a key, in a job file or with `--set`."""
    return key in section.model_fields_set


def _objections(check: Callable[[], object]) -> Iterator[str]:
    """The message of a check that refuses the job."""
    try:
        check()
    except JobError as error:
        yield str(error)


def _raise_all(reasons: Iterable[str]) -> None:
    if lines := list(reasons):
        raise JobError("\n".join(lines))
