"""plan.json: written with a checksum, and believed only if the plan fits together.

A plan whose shards are not exactly the planned pictures would leave pictures out, or make them from
other rows, and the run would still end. The checksum notices every change. What must hold between
the numbers is checked too, because plans of batchgen 0.2 and older have no checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from batchgen.checked_json import checksum_of, parse, seal, unseal
from batchgen.errors import DamagedRun, counted, shell_command
from batchgen.planning.identity import fingerprint
from batchgen.planning.plan import GENERATION_VERSION, READ_VERSIONS, Generation, Plan, Shard

_COPY = "Put the file back from a copy."


def encode_plan(plan: Plan) -> bytes:
    """The text of plan.json."""
    return seal(plan.model_dump(mode="json"))


def decode_plan(text: bytes, where: object) -> Plan:
    """The plan that `encode_plan` wrote.

    :param where: the file, for the message.
    :raises DamagedRun: it is no plan or not the one that was written, or another version of
        batchgen wrote it.
    """
    try:
        values = unseal(text)
        version = values.get("version")
        if version in READ_VERSIONS:
            plan = parse(Plan, values)
            if wrong := next(contradictions(plan), None):
                raise ValueError(wrong)
            return plan
    except ValueError as error:
        wrong = str(error)
    else:
        known = " and ".join(map(str, READ_VERSIONS))
        raise DamagedRun(
            f"{where}: written by another version of batchgen (its plan has version {version!r}, "
            f"and this one reads {known}); resume with the one that planned it"
        )
    again = shell_command("batchgen", "submit", "MANIFEST", "--out", "ANOTHER_FOLDER")
    raise DamagedRun(
        f"{where}: not the plan that was made: {wrong}. Put the file back from a copy, or start "
        f"another run with: {again}"
    )


def encode_generation(generation: Generation) -> bytes:
    """The text of plan-0001.json, and of those after it."""
    return seal(generation.model_dump(mode="json"))


def decode_generation(text: bytes, where: object) -> Generation:
    """The generation that `encode_generation` wrote.

    :param where: the file, for the message.
    :raises DamagedRun: it is none, not the one that was written, or another version's.
    """
    try:
        values = unseal(text)
        if (version := values.get("version")) == GENERATION_VERSION:
            return parse(Generation, values)
        wrong = f"its version is {version!r}, and this batchgen reads {GENERATION_VERSION}"
    except ValueError as error:
        wrong = str(error)
    raise DamagedRun(f"{where}: not the plan that was made: {wrong}. {_COPY}")


def continue_plan(plan: Plan, before: bytes, generation: Generation, where: object) -> Plan:
    """A plan with the generation that follows.

    :param before: the text of the plan's last file.
    :raises DamagedRun: the generation does not follow that plan.
    """
    if wrong := next(_breaks(plan, checksum_of(before), generation), None):
        raise DamagedRun(f"{where}: {wrong}. {_COPY}")
    return plan.with_generation(generation)


def _breaks(plan: Plan, parent: str, generation: Generation) -> Iterator[str]:
    """What cannot be true of a generation that follows a plan."""
    if generation.run != plan.run:
        yield "it is of another run"
    if generation.generation != plan.last_generation + 1:
        yield f"it is generation {generation.generation}, and {plan.last_generation} is before it"
    if generation.parent != parent:
        yield "the plan before it is not the one that it continues"
    if generation.first_shard != len(plan.shards):
        yield f"its shards begin with {generation.first_shard}, and {len(plan.shards)} are before"
    sizes = [shard.pictures for shard in generation.shards]
    if not sizes or min(sizes) < 1 or sum(sizes) != generation.pictures:
        yield f"its shards do not have {counted(generation.pictures, 'picture')} together"
    elif not generation.makes_again:
        yield from _breaks_of_new(plan, generation)
    elif not generation.listed:
        yield "it makes pictures again and has no list of them"


def _breaks_of_new(plan: Plan, generation: Generation) -> Iterator[str]:
    """What cannot be true of a generation with new pictures."""
    if sum(shape.pictures for shape in generation.shapes) != generation.pictures:
        yield f"its sizes do not have {counted(generation.pictures, 'picture')} together"
    added, shards = generation.added, generation.shards
    if added and sum(source.rows for source in added.sources) != added.rows:
        yield f"its files do not have {counted(added.rows, 'row')} together"
    if plan.left and plan.listed and (added or generation.pictures != plan.left):
        yield f"it is not the rest of the trial, {counted(plan.left, 'picture')}"
    if generation.listed:
        return
    if shards[0]._replace(pictures=0) != plan.following:
        yield "its pictures do not follow those that are planned"
    end = plan.with_generation(generation).following
    for shard, following in pairwise((*shards, end)):
        if wrong := _gap(shard, following):
            yield f"a shard {wrong}"


def contradictions(plan: Plan) -> Iterator[str]:
    """What cannot be true of a plan: a sentence each."""
    yield from _wrong_sums(plan)
    if not plan.shards:
        yield "it has no shards"
    elif not plan.listed and plan.shards[0]._replace(pictures=0) != (0, 0, 0, 0):
        yield "its first shard does not begin with the first picture of the first row"
    consecutive = () if plan.listed else (*plan.shards, plan.following)
    for number, (shard, following) in enumerate(pairwise(consecutive)):
        if wrong := _gap(shard, following):
            yield f"shard {number} {wrong}"


def _wrong_sums(plan: Plan) -> Iterator[str]:
    """Numbers of a plan that do not fit together."""
    if plan.later:
        yield "it holds a later generation"
    if plan.fingerprint != fingerprint(plan.identity):
        yield "its fingerprint is not that of its identity"
    if sum(source.rows for source in plan.sources) != plan.rows:
        yield f"its files do not have {counted(plan.rows, 'row')} together"
    if sum(shape.pictures for shape in plan.shapes) != plan.pictures:
        yield f"its sizes do not have {counted(plan.pictures, 'picture')} together"
    if (plan.end is None and plan.listed is None) != (plan.left == 0):
        yield "it is a trial of the whole manifest"
    if not len(plan.shards) <= plan.groups <= plan.pictures:
        yield f"{counted(plan.groups, 'group')} cannot be in {counted(len(plan.shards), 'shard')}"


def _gap(shard: Shard, following: Shard) -> str:
    """What is wrong between the begins of two shards; "" if they join."""
    next_key = shard.first_key + shard.pictures
    if shard.pictures < 1 or next_key != following.first_key:
        return f"ends before picture {next_key}, and the next begins at {following.first_key}"
    if following.row == shard.row:  # both have pictures of this row alone
        joined = following.skip == shard.skip + shard.pictures
    else:  # at least one picture of each row, and `skip` of the row that is shared
        rows = following.row - shard.row
        joined = rows > 0 and following.skip >= 0 and shard.pictures >= rows + following.skip
    place = f"row {following.row}, picture {following.skip} of it"
    return "" if joined else f"begins in row {shard.row} and cannot end before {place}"
