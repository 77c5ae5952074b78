"""What a job states of the noise levels, beside what the model's scheduler does by itself.

    sampling.sigmas   the level at which each step begins; absent: evenly spaced
    sampling.shift    then moves the levels; absent: the scheduler's ways to move them do

Both together are levels that no scheduler changes, if the shift is 1: exactly those written.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from batchgen.errors import JobError
from batchgen.model import Checkpoint
from batchgen.settings import Sampling

# Keys of a scheduler's configuration for curves that take the place of levels between two ends.
_CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
_AS_THEY_ARE = "--set sampling.shift=1 takes them as they are"


def stated_levels(sampling: Sampling) -> dict[str, Any]:
    """The keys by which a job states noise levels, and their values; empty: the model's hold."""
    stated = {"shift": sampling.shift, "sigmas": list(sampling.sigmas)}
    return {key: value for key, value in stated.items() if value}


def check_levels(sampling: Sampling, checkpoint: Checkpoint) -> None:
    """Check that every stated level acts.

    :raises JobError: the model's scheduler would put other levels between the first and the last.
    """
    if not sampling.sigmas or sampling.shift is not None:
        return
    scheduler = checkpoint.scheduler()
    if curve := next((key for key in _CURVES if getattr(scheduler, key)), None):
        raise JobError(
            f"sampling.sigmas: the model's scheduler has {curve}, which puts other levels between "
            f"the first and the last. {_AS_THEY_ARE}"
        )


def check_fewest_steps(sampling: Sampling, checkpoint: Checkpoint, fewest: int) -> None:
    """Check that the model's scheduler can space the noise levels of the planned pictures.

    :param fewest: steps of the planned picture with the fewest.
    :raises JobError: it stretches levels until the last one is where it shall end, and one level,
        which is the first one too, cannot be stretched: the picture would be no numbers.
    """
    end = checkpoint.scheduler().shift_terminal
    if fewest == 1 and end is not None and not stated_levels(sampling):
        raise JobError(
            f"pictures of 1 step: the model's scheduler has shift_terminal = {end:g}, which needs "
            "two noise levels or more. Ask for 2 steps, or --set sampling.shift=1"
        )


def notes_on_levels(sampling: Sampling, checkpoint: Checkpoint | None) -> Iterator[str]:
    """A sentence for what the model's scheduler does no more, or does with stated levels.

    :param checkpoint: None for test cards, which have no noise.
    """
    if not stated_levels(sampling) or checkpoint is None:
        return
    moves = ", ".join(_moves(checkpoint))
    if sampling.shift is not None and moves:
        yield (
            f"sampling.shift = {sampling.shift:g} moves the noise levels, and nothing else does: "
            f"the model's scheduler would ({moves})"
        )
    elif moves:
        yield f"sampling.sigmas are moved by the model's scheduler ({moves}). {_AS_THEY_ARE}"


def _moves(checkpoint: Checkpoint) -> Iterator[str]:
    """What moves noise levels in the configuration of a model's scheduler."""
    scheduler = checkpoint.scheduler()
    if scheduler.use_dynamic_shifting:
        yield "use_dynamic_shifting"
    elif scheduler.shift != 1:
        yield f"shift = {scheduler.shift:g}"
    if scheduler.shift_terminal is not None:
        yield f"shift_terminal = {scheduler.shift_terminal:g}"
    yield from (key for key in _CURVES if getattr(scheduler, key))
