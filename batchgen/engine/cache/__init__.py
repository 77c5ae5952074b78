"""Which steps of a picture are skipped. Imports no torch, so that planning can ask it.

`make_policy` gives the policy that a job asks for.

    step_cache.py    measure, decide for each picture, reuse or compute
    residual.py      the stored residual, extrapolated over sigma
    selection.py     some rows of a call
    first_block.py   policy = "first_block": while the first blocks do what they did
    teacache.py      policy = "teacache": until the first block's input has moved far enough
    adacache.py      policy = "adacache": how many steps, decided after a computed one
    replay.py        policy = "replay": what another run skipped
    schedule.py      policy = "schedule": the steps given
    policy.py        what a policy is
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchgen.engine.cache.adacache import AdaCache
from batchgen.engine.cache.first_block import FirstBlock
from batchgen.engine.cache.policy import Bounded, Decider, Policy
from batchgen.engine.cache.replay import read_traces
from batchgen.engine.cache.schedule import Given
from batchgen.engine.cache.teacache import COEFFICIENTS, TeaCache
from batchgen.errors import JobError
from batchgen.settings import Cache

__all__ = ["COMPUTED", "SKIPPED", "Decider", "Policy", "make_policy"]


def make_policy(settings: Cache, family: str, blocks: int) -> Policy | None:
    """The policy that the job's `[cache]` asks for; None for none.

    :param family: the checkpoint's.
    :param blocks: of its transformer.
    :raises JobError: settings that contradict each other or ask for what the family does not have; all of them are told.
    """
    if problems := [*_contradictions(settings), *_lacks(settings, family, blocks)]:
        raise JobError("[cache]:\n  " + "\n  ".join(problems))

    def bounded(decider: Decider) -> Decider:
        return Bounded(decider, settings.warmup, settings.max_consecutive)

    threshold, order = settings.threshold, settings.taylor_order
    if settings.policy == "first_block":
        return Policy(
            lambda *_: bounded(FirstBlock(threshold)),
            settings.blocks,
            "residual",
            taylor_order=order,
        )
    if settings.policy == "teacache":
        return Policy(
            lambda _, steps: bounded(TeaCache(threshold, COEFFICIENTS[family], steps)),
            0,
            "modulated",
            "previous",
            taylor_order=order,
        )
    if settings.policy == "adacache":
        return Policy(lambda *_: bounded(AdaCache(threshold)), judges=True, taylor_order=order)
    if settings.policy == "schedule":
        return Policy(lambda *_: Given(frozenset(settings.skip)), taylor_order=order)
    if settings.policy == "replay":
        return Policy(
            read_traces(Path(settings.trace).expanduser()).decider,
            settings.blocks,
            "residual",
            taylor_order=order,
        )
    return None


def _contradictions(settings: Cache) -> Iterator[str]:
    """A key that only another policy reads, or one that this policy lacks."""
    for key, given, reader in (
        ("skip", bool(settings.skip), "schedule"),
        ("trace", bool(settings.trace), "replay"),
    ):
        if given and settings.policy != reader:
            yield f'{key} is read by policy = "{reader}"; this is policy = "{settings.policy}"'
        if not given and settings.policy == reader:
            yield f'policy = "{reader}" needs {key}'
    if any(step < 1 for step in settings.skip):
        yield f"skip = {list(settings.skip)}: steps are counted from 0, and step 0 has nothing to reuse; expected 1 or more"


def _lacks(settings: Cache, family: str, blocks: int) -> Iterator[str]:
    """What the family does not have."""
    if settings.policy in ("first_block", "replay") and settings.blocks >= blocks:
        yield f"blocks = {settings.blocks}: the model has {blocks} blocks, and some must be left to skip; expected 1 to {blocks - 1}"
    if settings.policy == "teacache" and family not in COEFFICIENTS:
        known = ", ".join(COEFFICIENTS)
        yield f'policy = "teacache": coefficients are published for {known}, not for {family}; policy = "first_block" needs none'
