"""What audits measured is summed over groups, attempts and shards, whichever way it is cut."""

import random
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from batchgen.shard.in_progress import unpublished_counts
from batchgen.shard.journal import read_journal
from batchgen.shard.loss import Loss
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record
from batchgen.shard.superseded import Superseded
from batchgen.shard.tally import Tally
from tests.support.specimens import done, new_directory, published, record

AUDITED = {"audit": "measured", "ssim": 0.9, "audit_s": 0.5}


def measured(key: int, psnr: float, **given: Any) -> Record:
    return record(key, **AUDITED | {"psnr": psnr} | given)


def test_it_counts_audited_pictures_alone() -> None:
    unmeasured = record(3, audit="not measured", audit_error="why", audit_s=0.25)
    low = measured(1, 30.0, audit="below", ssim=0.5)
    loss = Loss.of([record(0), low, measured(2, 50.0), unmeasured])
    assert loss == Loss(2, 1, 1, 40.0, 30.0, pytest.approx(0.7), 0.5, 1.25)
    assert loss.pictures == 3


def test_of_nothing_there_is_no_mean() -> None:
    assert Loss.of([record()]) == Loss() == Loss().plus(Loss())
    unmeasured = Loss.of([record(audit="not measured")])
    assert (unmeasured.psnr_mean, unmeasured.psnr_worst, unmeasured.pictures) == (None, None, 1)


def test_parts_add_up_to_the_whole_however_they_are_cut() -> None:
    chance = random.Random(0)
    kinds = ("", "measured", "below", "not measured")
    records = [
        measured(key, psnr=chance.uniform(20, 99), audit=kind, ssim=chance.random())
        if kind in ("measured", "below")
        else record(key, audit=kind)
        for key, kind in enumerate(chance.choices(kinds, k=60))
    ]
    whole = Loss.of(records)
    for _ in range(20):
        cuts = sorted({0, 60, *chance.sample(range(60), 5)})
        parts = [Loss.of(records[start:end]) for start, end in pairwise(cuts)]
        added = reduce(Loss.plus, parts, Loss())
        for name in Loss.__dataclass_fields__:
            assert getattr(added, name) == pytest.approx(getattr(whole, name)), name


def test_a_shard_in_progress_tells_its_loss_and_a_later_attempt_goes_on_from_it(
    tmp_path: Path,
) -> None:
    directory = new_directory(tmp_path)
    first = PartialShard(directory, 0, 1, [])
    first.end(b"one", [measured(0, 40.0), record(1)])
    first.end(b"two", [record(2), record(3)])
    assert unpublished_counts(directory, set()) == (4, 0, Loss.of(first.records()))
    second = PartialShard(directory, 0, 2, [1])
    second.end(b"three", [measured(4, 50.0), record(5)])
    assert unpublished_counts(directory, set()) == (6, 0, Loss.of(second.records()))
    assert Loss.of(second.records()).psnr_mean == 45.0


def test_a_journal_without_an_audit_says_nothing_of_it(tmp_path: Path) -> None:
    partial = PartialShard(new_directory(tmp_path), 0, 1, [])
    partial.end(b"one", [record(0)])
    assert b"loss" not in partial.path("journal").read_bytes()
    assert read_journal(partial.path("journal"))[0].loss == ()


def test_a_tally_adds_and_keeps_the_loss_of_its_shards(tmp_path: Path) -> None:
    directory, losses = new_directory(tmp_path), [Loss.of([measured(0, db)]) for db in (30.0, 50.0)]
    for shard, loss in enumerate(losses):
        published(directory, done(shard, loss=loss))
    published(directory, done(2))  # as an older version commits
    tally = Tally()
    tally.add(directory, {0, 1, 2}, Superseded(directory))
    assert tally.loss == losses[0].plus(losses[1])
    tally.save(directory)
    assert Tally.load(directory) == tally
