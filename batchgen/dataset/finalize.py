"""Complete a run: statistics, contact sheet, report, dataset card, wids index.

Any worker or `resume` does this when it sees that every shard is committed. Doing it twice gives
the same files. `index.json` is written last: a run that has it is complete.

Nothing that another hand made is replaced or taken in. A run with files among the published ones
that it did not publish, or from which a published file is gone, is not completed. A card that a
person edited is kept in `.batchgen/replaced/` when another takes its place.
"""

from __future__ import annotations

import json
import logging
import tarfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from batchgen.dataset.card import dataset_card
from batchgen.dataset.card_features import sample_features
from batchgen.dataset.chosen import count_splits
from batchgen.dataset.contact_sheet import Tar, contact_sheet
from batchgen.dataset.report import report_page
from batchgen.dataset.splits import published_splits, splits_of
from batchgen.dataset.statistics import Statistics, gather
from batchgen.dataset.wids import run_index
from batchgen.errors import DamagedRun, shell_command
from batchgen.planning import Pace, remember
from batchgen.regular_file import read_regular
from batchgen.run import Run, RunDirectory, new_aside, put_aside, replace_keeping
from batchgen.settings import Splits
from batchgen.shard import (
    Done,
    Superseded,
    committed_shards,
    count_pictures,
    key_text,
    lost_shards,
    missing_names,
    published_shards,
    read_done,
    remake,
    roll_forward,
    shards_with_attempts,
    strange_files,
    sweep,
)

log = logging.getLogger(__name__)

# Files that a message names.
MANY = 3


def finalize_run(run: Run) -> bool:
    """Complete the run if every shard is committed.

    :return: whether the run is complete.
    :raises DamagedRun: a published file is gone, damaged or not the one that was committed, or
        there are others beside them.
    """
    directory, planned = run.directory, set(range(len(run.plan.shards)))
    if directory.last_generation() != run.plan.last_generation:
        return False  # another process has begun one: it is not this process's to complete
    # Asked before the commits are listed: other workers may complete the run at any moment.
    was_complete = directory.complete()
    committed = committed_shards(directory) & planned
    unpublished = committed - published_shards(directory)
    for shard in sorted(unpublished | (committed & shards_with_attempts(directory))):
        roll_forward(directory, shard)
    _refuse_damage(directory, len(planned))
    if planned - committed:
        if was_complete:  # a person took a damaged shard away
            put_aside(directory, directory.index, new_aside(directory))
        return False
    if not was_complete or published_splits(directory.root) != splits_of(directory.root):
        _write_summaries(run, committed)
    return True


def _refuse_damage(directory: RunDirectory, planned: int) -> None:
    """Refuse a run whose published files are not all there, or not alone.

    :raises DamagedRun: with the names and the remedy.
    """
    counts = count_pictures(directory)
    if strange := strange_files(directory, planned, counts.tarless):
        away = shell_command("mv", strange[0], "ANOTHER_FOLDER")
        raise DamagedRun(
            f"{_listed(strange)}: not published by this run, and readers of data/*.tar or "
            f"metadata/*.parquet would take it for the run's. Move it away, for example: {away}"
        )
    lost = lost_shards(directory, counts.shards, counts.tarless)
    if gone := [path for done in lost for path in missing_names(directory, done)]:
        raise DamagedRun(f"{_listed(gone)} was committed and is missing. {remake(directory)}")


def _listed(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - MANY} more" if len(paths) > MANY else ""
    return ", ".join(str(path) for path in paths[:MANY]) + more


def _write_summaries(run: Run, committed: set[int]) -> None:
    directory, root = run.directory, run.directory.root
    done = [read_done(directory, shard) for shard in sorted(committed)]
    statistics = summarize(directory, done)
    text = json.dumps(asdict(statistics), indent=1) + "\n"
    replace_keeping(directory, root / "statistics.json", text.encode())
    superseded = Superseded(directory)
    tars = [_countable(directory, one, superseded) for one in done if one.tar]
    try:
        sheet = contact_sheet(tars, run.job.output.format)
    except (tarfile.TarError, OSError, SyntaxError) as error:  # Pillow's, for a broken PNG
        remedy = remake(directory, deep=True)
        raise DamagedRun(f"{root / 'data'}: a tar cannot be read: {error}. {remedy}") from None
    if sheet:
        replace_keeping(directory, root / "contact.jpg", sheet)
    _write_report(run, done, statistics)
    card = dataset_card(run, statistics, sample_features(run))
    replace_keeping(directory, root / "README.md", card.encode())
    for shard in committed:
        sweep(directory, shard)
    count_pictures(directory).save(directory)
    index = run_index(directory, done, run.plan.last_generation)
    replace_keeping(directory, directory.index, index)
    _remember_pace(run, statistics)


def summarize(directory: RunDirectory, done: Sequence[Done]) -> Statistics:
    """The statistics of a run, with those of its splits."""
    statistics, root = gather(directory, done), directory.root
    splits = splits_of(root)  # as they are now: a worker may have begun with others
    if splits == Splits():
        return statistics
    counts = count_splits(root, splits)
    return replace(statistics, splits=splits.model_dump(), split_pictures=counts)


def _countable(directory: RunDirectory, one: Done, superseded: Superseded) -> Tar:
    """A tar without the samples that count no more."""
    keys = superseded.keys(one.shard)
    pictures = one.ok - superseded.good(one.shard)
    return Tar(directory.data(one.shard), pictures, {key_text(key) for key in keys.tolist()})


def _write_report(run: Run, done: Sequence[Done], statistics: Statistics) -> None:
    """Write the report; a run is complete without one too."""
    try:
        page = report_page(run, done, statistics)
    except DamagedRun:
        raise
    except Exception:
        again = shell_command("batchgen", "report", run.directory.root)
        log.exception("the report could not be written; to try it again: %s", again)
        return
    replace_keeping(run.directory, run.directory.root / "report.html", page)


def _remember_pace(run: Run, statistics: Statistics) -> None:
    """Let later plans of such runs know how long their pictures will take."""
    plan, directory = run.plan, run.directory
    if run.job.engine.kind == "pattern" or not statistics.ok or not directory.identity.exists():
        return
    estimated_s = plan.seconds * statistics.ok / plan.pictures
    # Rank 0 of a worker counts its seconds; all ranks work as long.
    factor = statistics.device_s * run.job.parallel.degree / estimated_s
    device = read_regular(directory.identity).decode(errors="replace")
    remember(plan.identity, Pace(factor, statistics.ok, device, directory.root.name))
