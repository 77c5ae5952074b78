"""Step caching: skip the denoising steps whose velocity can be told from those before.

`make_policy` turns the job's `[cache]` into a `Policy`, which decides for each picture by itself.
What a skipped step goes along is the same for all policies: the velocity that the picture's last
computed steps predict; the next computed step corrects it. Policies import no torch, so that
planning can check them; only `velocities.py`, `selection.py` and `probe.py` handle tensors.

    velocities.py    measure, decide, compute, correct, predict: above the forward pass
    trajectory.py    the weights of predictions and corrections
    selection.py     some rows of a batch
    products.py      cache.record: inner products of velocities, to find schedules from
    probe.py         in the forward pass: how far a picture's signal has moved
    first_block.py   policy = "first_block": skip while the first blocks repeat themselves
    teacache.py      policy = "teacache": skip until the input has moved far enough
    adacache.py      policy = "adacache": a computed step decides how many steps are skipped
    replay.py        policy = "replay": skip what another run skipped
    schedule.py      policy = "schedule": skip the steps that the job or its schedule file lists
    scheduled_start.py  policy = "multistep" with a schedule: more steps where a picture errs more
    multistep.py     policy = "multistep": compute the steps that a picture's own error asks for
    policy.py        what a policy is
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from batchgen.engine.cache.adacache import AdaCache
from batchgen.engine.cache.first_block import FirstBlock
from batchgen.engine.cache.multistep import Multistep
from batchgen.engine.cache.policy import Bounded, Decider, Policy, Signal
from batchgen.engine.cache.replay import read_traces
from batchgen.engine.cache.schedule import FixedSchedule
from batchgen.engine.cache.scheduled_start import ScheduledStart
from batchgen.engine.cache.teacache import COEFFICIENTS, TeaCache
from batchgen.errors import JobError
from batchgen.manifest import Picture
from batchgen.settings import Cache, ClassSchedule, PictureClass, repeated

__all__ = ["make_policy"]


def make_policy(settings: Cache, family: str, blocks: int) -> Policy | None:
    """The policy that the job's `[cache]` asks for, or None for `policy = "none"`.

    :param settings: of a located job, which has classes in place of a schedule file.
    :param family: the model's family.
    :param blocks: how many blocks its transformer has.
    :raises JobError: settings contradict each other, or the family lacks what they ask for. The
        message lists every problem.
    """
    assert not settings.schedule, "the schedule file was not read"
    if problems := [*_contradictions(settings), *_lacks(settings, family, blocks)]:
        raise JobError("[cache]:\n  " + "\n  ".join(problems))

    def bounded(make: Callable[[int], Decider]) -> Callable[[Picture, Sequence[float]], Decider]:
        warmup, most = settings.warmup, settings.max_consecutive
        return lambda _, sigmas: Bounded(make(len(sigmas) - 1), warmup, most)

    threshold = settings.threshold
    policy = partial(Policy, taylor_order=settings.taylor_order)
    after_blocks = Signal("residual", settings.blocks) if settings.blocks else None
    match settings.policy:
        case "multistep":
            return Policy(_multistep(settings), learns="error")
        case "first_block":
            return policy(bounded(lambda _: FirstBlock(threshold)), after_blocks)
        case "teacache":
            decider = bounded(lambda steps: TeaCache(threshold, COEFFICIENTS[family], steps))
            return policy(decider, Signal("modulated", reference="previous"))
        case "adacache":
            return policy(bounded(lambda _: AdaCache(threshold)), learns="change")
        case "schedule":
            return policy(lambda picture, _: FixedSchedule(_skipped(settings, picture)))
        case "replay":
            recorded = read_traces(Path(settings.trace).expanduser())
            return policy(
                lambda picture, sigmas: recorded.decider(picture.key, len(sigmas) - 1), after_blocks
            )
        case "none":
            return None


def _multistep(settings: Cache) -> Callable[[Picture, Sequence[float]], Decider]:
    """Makes the deciders of multistep, with the schedules of classes or without."""
    if not settings.classes:
        return lambda _, sigmas: Multistep(settings.tolerance, sigmas)
    return lambda picture, sigmas: ScheduledStart(_of_class(settings, picture), sigmas)


def _skipped(settings: Cache, picture: Picture) -> Sequence[int]:
    """The steps that a schedule skips: those of the picture's class, or of all pictures."""
    return _of_class(settings, picture).skipped if settings.classes else settings.skip


def _of_class(settings: Cache, picture: Picture) -> ClassSchedule:
    """The schedule of a picture's class.

    :raises JobError: there is none. Planning refuses such pictures with their rows.
    """
    negative = picture.negative_prompt != ""
    wanted = PictureClass.of(picture.width, picture.height, picture.steps, negative=negative)
    found = next((one for one in settings.classes if one.of == wanted), None)
    if found is None:
        raise JobError(f"cache.classes: none for {wanted}, picture {picture.key}")
    return found


def _contradictions(settings: Cache) -> Iterator[str]:
    """Keys that the policy needs and lacks, and steps that cannot be skipped.

    Keys that it does not read are refused when the job is read (`settings/written.py`).
    """
    named = [key for key in ("skip", "classes") if getattr(settings, key)]
    if settings.policy == "schedule" and not named:
        yield 'policy = "schedule" needs skip, or schedule: a file of `batchgen calibrate`'
    if len(named) > 1:
        yield f"{' and '.join(named)} each say which steps are computed: leave one"
    if settings.classes and "tolerance" in settings.model_fields_set:
        yield "tolerance would have no effect beside classes, whose errors stand in its place"
    if settings.policy == "replay" and not settings.trace:
        yield 'policy = "replay" needs trace'
    for twice in repeated(settings.classes):
        yield f"classes: two schedules for {twice}; leave one"
    lacking = (one for one in settings.classes if len(one.computed) > 1 and not one.errors)
    if settings.policy == "multistep" and any(lacking):
        yield 'classes: policy = "multistep" compares with errors, and some class has none'
    if any(step < 1 for step in settings.skip):
        yield (
            f"skip = {list(settings.skip)}: steps are counted from 0, and step 0 has nothing to "
            "reuse; expected 1 or more"
        )


def _lacks(settings: Cache, family: str, blocks: int) -> Iterator[str]:
    """What the policy needs and the model does not have."""
    if settings.policy == "first_block" and not settings.blocks:
        yield 'cache.blocks = 0: policy = "first_block" measures blocks; expected 1 or more'
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
