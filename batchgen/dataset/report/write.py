"""Write the report of a run, at any time."""

from __future__ import annotations

from pathlib import Path

from batchgen import durable
from batchgen.dataset.report.page import report_page
from batchgen.dataset.statistics import gather
from batchgen.run import Run
from batchgen.shard import published_shards, read_done, unpublished_counts


def write_report(run: Run, out: Path | None = None, price: float | None = None) -> Path:
    """Write the report of what is published now.

    :param out: the file; None for `report.html` in the run directory.
    :param price: of a device-hour; None for that of the site where the run was last.
    :return: the file.
    :raises DamagedRun: a published file is gone or damaged.
    """
    directory = run.directory
    published = published_shards(directory) & set(range(len(run.plan.shards)))
    done = [read_done(directory, shard) for shard in sorted(published)]
    unpublished = unpublished_counts(directory, published)
    page = report_page(run, done, gather(directory, done), unpublished, price)
    path = out or directory.root / "report.html"
    durable.replace(path, page)
    return path
