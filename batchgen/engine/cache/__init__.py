"""Step caching: skip most blocks of a denoising step where they would repeat an earlier step.

`make_policy` turns the job's `[cache]` into a `Policy`, which decides for each picture by itself.
Policies import no torch, so that planning can check them; only `step_cache.py`, `residual.py`,
`velocities.py` and `selection.py` handle tensors. "multistep" stands above the forward pass, in
`denoise.py`; all other policies stand in it, between blocks.

    step_cache.py    measures, asks the policy, computes or reuses
    residual.py      what the skipped blocks would have added
    velocities.py    what the whole transformer predicts, extrapolated and corrected
    selection.py     some rows of a batch
    first_block.py   policy = "first_block": skip while the first blocks repeat themselves
    teacache.py      policy = "teacache": skip until the input has moved far enough
    adacache.py      policy = "adacache": a computed step decides how many steps reuse it
    replay.py        policy = "replay": skip what another run skipped
    schedule.py      policy = "schedule": skip the steps that the job lists
    multistep.py     policy = "multistep": compute the steps that a picture's own error asks for
    policy.py        what a policy is
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from batchgen.engine.cache.adacache import AdaCache
from batchgen.engine.cache.first_block import FirstBlock
from batchgen.engine.cache.multistep import Multistep
from batchgen.engine.cache.policy import Bounded, Decider, Policy
from batchgen.engine.cache.replay import read_traces
from batchgen.engine.cache.schedule import FixedSchedule
from batchgen.engine.cache.teacache import COEFFICIENTS, TeaCache
from batchgen.errors import JobError
from batchgen.settings import Cache

__all__ = ["make_policy"]


def make_policy(settings: Cache, family: str, blocks: int) -> Policy | Multistep | None:
    """The policy that the job's `[cache]` asks for, or None for `policy = "none"`.

    :param family: the model's family.
    :param blocks: how many blocks its transformer has.
    :raises JobError: settings contradict each other, or the family lacks what they ask for. The
        message lists every problem.
    """
    if problems := [*_contradictions(settings), *_lacks(settings, family, blocks)]:
        raise JobError("[cache]:\n  " + "\n  ".join(problems))

    def bounded(make: Callable[[int], Decider]) -> Callable[[int, int], Decider]:
        warmup, most = settings.warmup, settings.max_consecutive
        return lambda _, steps: Bounded(make(steps), warmup, most)

    threshold = settings.threshold
    policy = partial(Policy, taylor_order=settings.taylor_order)
    after_blocks = partial(policy, probe_blocks=settings.blocks, signal="residual")
    match settings.policy:
        case "multistep":
            return Multistep(settings.tolerance)
        case "first_block":
            return after_blocks(bounded(lambda _: FirstBlock(threshold)))
        case "teacache":
            decider = bounded(lambda steps: TeaCache(threshold, COEFFICIENTS[family], steps))
            return policy(decider, signal="modulated", reference="previous")
        case "adacache":
            return policy(bounded(lambda _: AdaCache(threshold)), judges=True)
        case "schedule":
            return policy(lambda *_: FixedSchedule(settings.skip))
        case "replay":
            return after_blocks(read_traces(Path(settings.trace).expanduser()).decider)
        case "none":
            return None


def _contradictions(settings: Cache) -> Iterator[str]:
    """Keys that the policy needs and lacks, and steps that cannot be skipped.

    Keys that it does not read are refused when the job is read (`settings/written.py`).
    """
    for policy, key in (("schedule", "skip"), ("replay", "trace")):
        if settings.policy == policy and not getattr(settings, key):
            yield f'policy = "{policy}" needs {key}'
    if any(step < 1 for step in settings.skip):
        yield (
            f"skip = {list(settings.skip)}: steps are counted from 0, and step 0 has nothing to "
            "reuse; expected 1 or more"
        )


def _lacks(settings: Cache, family: str, blocks: int) -> Iterator[str]:
    """What the policy needs and the model does not have."""
    if settings.policy in ("first_block", "replay") and settings.blocks >= blocks:
        yield (
            f"blocks = {settings.blocks}: the model has {blocks} blocks, and some must be left to "
            f"skip; expected 1 to {blocks - 1}"
        )
    if settings.policy == "teacache" and family not in COEFFICIENTS:
        yield (
            f'policy = "teacache": coefficients are published for {", ".join(COEFFICIENTS)}, not '
            f'for {family}; policy = "first_block" needs none'
        )
