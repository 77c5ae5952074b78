"""What a job asks for and cannot have, said before anything starts. Imports no torch.

`refuse_impossible` needs the job and the model's configuration; `refuse_unfit` the plan too. Both say all they find at once. Of the devices
they know what `hardware.py` could find out, and refuse nothing for what they do not know: there the engine refuses when it is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from batchgen.engine.cache import make_policy
from batchgen.engine.parallel.mesh import choose_mesh
from batchgen.engine.precision.rules import check_independence, check_precision, check_tokens
from batchgen.engine.rules import (
    check_attention,
    check_offload,
    check_offload_compiles,
    check_true_cfg,
)
from batchgen.errors import JobError
from batchgen.model import Checkpoint
from batchgen.planning.hardware import Hardware, check_enough
from batchgen.planning.memory_fit import shortage
from batchgen.planning.plan import Plan, Shape
from batchgen.planning.planner import locate_model
from batchgen.settings import Job

_ANY_CARD = (99, 0)  # stands for a card of which nothing is known: it can do everything


def refuse_impossible(
    job: Job, checkpoint: Checkpoint | None, hardware: Hardware = Hardware()
) -> None:  # noqa: B008 - frozen
    """Check what the engine would refuse when it is built.

    :param checkpoint: None: test cards, which need nothing.
    :raises JobError: every reason, a line each.
    """
    if checkpoint is not None:
        _raise_all(_reasons(job, checkpoint, hardware))


def find_model(job: Job, hardware: Hardware) -> Checkpoint | None:
    """The job's model, of a job that is not impossible; None for test cards.

    :raises ModelError: it cannot be used.
    :raises JobError: see `refuse_impossible`.
    """
    located, checkpoint = locate_model(job)
    refuse_impossible(located, checkpoint, hardware)
    return checkpoint


def refuse_elsewhere(
    job: Job, checkpoint: Checkpoint | None, plan: Plan, hardware: Hardware
) -> None:
    """Check whether what is left of a run can be made with these devices, which need not be those it was planned for.

    :raises JobError: as the others.
    """
    refuse_impossible(job, checkpoint, hardware)
    refuse_unfit(job, checkpoint, plan, hardware)


def refuse_unfit(job: Job, checkpoint: Checkpoint | None, plan: Plan, hardware: Hardware) -> None:
    """Check whether the planned pictures can be computed as the job asks, on the devices, and fit into their memory.

    :raises JobError: every reason, and what would help.
    """
    if checkpoint is not None:
        few = _few_tokens(job, checkpoint, plan.shapes, hardware)
        _raise_all(
            [*_never_skips(job, plan.shapes), *few, *shortage(job, checkpoint, plan, hardware)]
        )


def _raise_all(reasons: Iterator[str] | Sequence[str]) -> None:
    if told := list(reasons):
        raise JobError("\n".join(told))


def _told(check: Callable[[], object]) -> Iterator[str]:
    """What a check has against the job."""
    try:
        check()
    except JobError as error:
        yield str(error)


def _reasons(job: Job, checkpoint: Checkpoint, hardware: Hardware) -> Iterator[str]:
    cp, asked = job.parallel.degree, job.precision
    capability = None if hardware.cuda is False else hardware.capability or _ANY_CARD
    for check in (
        lambda: check_enough(job, hardware.devices or ()),
        lambda: choose_mesh(cp, job.parallel.ulysses, job.parallel.ring, checkpoint.heads),
        lambda: make_policy(job.cache, checkpoint.family, checkpoint.blocks),
        lambda: check_precision(asked.linear, asked.granularity, capability),
        lambda: check_independence(
            asked.linear, asked.granularity, cp=cp, group=job.engine.batch_size, force=asked.force
        ),
        lambda: check_offload_compiles(job.engine.offload, job.compile.mode),
        lambda: check_offload(job.engine.offload, cuda=hardware.cuda, where=hardware.name),
        lambda: check_attention(
            job.engine.attention,
            cuda=hardware.cuda,
            capability=hardware.capability,
            fp32=asked.linear == "fp32",
            where=hardware.name,
        ),
        lambda: check_true_cfg(job.sampling.true_cfg, contrasts=checkpoint.contrasts),
    ):
        yield from _told(check)


def _never_skips(job: Job, shapes: Sequence[Shape]) -> Iterator[str]:
    """A cache that was asked for and could not do anything."""
    cache, most = job.cache, max(shape.steps for shape in shapes)
    if cache.policy == "schedule" and min(cache.skip) >= most:
        yield f"cache.skip = {list(cache.skip)}: the planned pictures have at most {most} steps, counted from 0"
    if cache.policy in ("first_block", "teacache", "adacache") and cache.warmup >= most:
        yield f"cache.warmup = {cache.warmup}: the planned pictures have at most {most} steps, so none would be skipped; take fewer"


def _few_tokens(
    job: Job, checkpoint: Checkpoint, shapes: Sequence[Shape], hardware: Hardware
) -> Iterator[str]:
    lengths = {
        n
        for shape in shapes
        for n in checkpoint.tokens(shape.width, shape.height, job.model.max_sequence_length)
    }
    return _told(
        lambda: check_tokens(
            job.precision.linear, lengths, job.parallel.degree, cuda=bool(hardware.cuda)
        )
    )
