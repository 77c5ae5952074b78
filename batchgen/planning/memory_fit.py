"""Whether a job fits into the memory of its devices, and what would make it fit.

`memory.py` estimates what is needed, `hardware.py` knows what is there. In doubt, a job may try.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator

from batchgen.engine.precision.rules import FP8_CAPABILITY, QUANTIZED
from batchgen.model import Checkpoint
from batchgen.planning.hardware import Hardware
from batchgen.planning.memory import Need, estimate_memory
from batchgen.planning.plan import Plan
from batchgen.settings import Job

Change = Callable[[Job], Job]
# What a rank needs for a job, and how many bytes of it are missing: 0 or less if the job fits.
Weigh = Callable[[Job], tuple[Need, int]]


def describe_memory(job: Job, checkpoint: Checkpoint | None, plan: Plan, hardware: Hardware) -> str:
    """What a rank needs and has, in a line; "" for test cards."""
    if checkpoint is None:
        return ""
    there = hardware.memory_of_rank(job, len(plan.shards))
    need = _need(job, checkpoint, plan, hardware)
    if there is None:
        return f"{_parts(need)}; what a device has is not known"
    doubt = ", which may not be enough" if need.total > there else ""
    return f"{_parts(need)}; {_there(there, hardware)}{doubt}"


def shortage(job: Job, checkpoint: Checkpoint, plan: Plan, hardware: Hardware) -> Iterator[str]:
    """A message if the job cannot fit: what is needed, what is there, what would help."""
    if hardware.memory is None:
        return

    def weigh(changed: Job) -> tuple[Need, int]:
        there = hardware.memory_of_rank(changed, len(plan.shards)) or 0
        need = _need(changed, checkpoint, plan, hardware)
        return need, need.total - there

    need, missing = weigh(job)
    if need.least > (there := need.total - missing):
        half = "all" if need.mapped else "all but the weights"
        facts = f"memory: {_parts(need)}; {_there(there, hardware)}"
        told = f"{facts}. It would not even fit if {half} took half."
        yield "\n".join([told, *_cures(job, weigh, hardware)])


def _need(job: Job, checkpoint: Checkpoint, plan: Plan, hardware: Hardware) -> Need:
    cuda, contrasted = hardware.cuda is not False, plan.contrasted > 0
    return estimate_memory(job, checkpoint, plan.shapes, cuda=cuda, contrasted=contrasted)


def _cures(job: Job, weigh: Weigh, hardware: Hardware) -> Iterator[str]:
    """A line for each setting that helps by itself, and whether they make it fit together."""
    need, missing = weigh(job)
    helped, together, rest = False, job, missing
    for words, apply in _remedies(job, hardware, lambda changed: weigh(changed)[1] <= 0):
        _, left = weigh(apply(job))
        if missing - left < need.total // 50:
            continue
        if together is job:
            yield "What would help, what costs least first:"
        fits = ", then it fits" if left <= 0 else ""
        yield f"  --set {words} saves {_size(missing - left)}{fits}"
        helped |= left <= 0
        if rest > 0:
            together = apply(together)
            rest = weigh(together)[1]
    if rest > 0:
        peak = weigh(together)[0].peak
        yield f"Even so {_size(rest)} are missing while {peak}: it needs devices with more memory."
    elif not helped:
        yield "Together, from the top as far as needed, they make it fit."


def _remedies(
    job: Job, hardware: Hardware, fits: Callable[[Job], bool]
) -> Iterator[tuple[str, Change]]:
    """Settings that take less memory; what costs least time or quality comes first.

    The group is made no smaller than it takes to fit.
    """
    cards, ranks, offload = hardware.devices, job.parallel.degree, job.engine.offload
    if cards is not None and job.run.workers != 1:
        yield _set("run", "workers", max(1, len(cards) // ranks))
    further = {"none": ("text", "model"), "text": ("model",)}
    for part in further.get(offload, ()) if hardware.cuda else ():
        yield _set("engine", "offload", part)
    if job.engine.batch_size > 1:
        sizes = [_set("engine", "batch_size", size) for size in range(1, job.engine.batch_size)]
        yield sizes[max(0, bisect(sizes, False, key=lambda change: not fits(change[1](job))) - 1)]
    if job.precision.text == "none":
        yield _set("precision", "text", "fp8")
    if hardware.cuda and job.precision.linear not in QUANTIZED:
        fp8 = (hardware.capability or FP8_CAPABILITY) >= FP8_CAPABILITY
        yield _set("precision", "linear", "fp8" if fp8 else "int8")
    free = cards is None or len(cards) >= 2 * ranks
    if free and not (job.parallel.ulysses or job.parallel.ring):
        yield _set("parallel", "cp", 2 * job.parallel.shared)
    if hardware.cuda and offload != "layers" and job.compile.mode in ("auto", "none"):
        yield _set("engine", "offload", "layers")


def _set(section: str, key: str, value: object) -> tuple[str, Change]:
    """A setting as a person types it, and the change of a job that it makes."""

    def apply(job: Job) -> Job:
        changed = getattr(job, section).model_copy(update={key: value})
        return job.model_copy(update={section: changed})

    return f"{section}.{key}={value}", apply


def _parts(need: Need) -> str:
    parts = {
        "transformer": need.transformer,
        "text encoders": need.encoders,
        "VAE": need.vae,
        "denoising": need.denoising,
        "decoding": need.decoding,
        "workspace": need.workspace,
    }
    if need.scorer:
        parts |= {"scorer": need.scorer, "scoring": need.scoring}
    listed = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    return f"about {_size(need.total)} a rank while {need.peak}, by estimate: {listed}"


def _there(memory: int, hardware: Hardware) -> str:
    share = "" if memory == hardware.memory else " for each rank"
    return f"{hardware.name} has {_size(memory)}{share}"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 10**8 else f"{size / 1e6:.0f} MB"
