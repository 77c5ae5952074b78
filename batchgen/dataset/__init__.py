"""What readers get beside the tars, and the check that it is what was made.

    loader.py          a run as a webdataset pipeline; `batchgen.dataset(run)` calls it
    split_copy.py      a copy with tars for each split
    passes.py          which epoch a pass is, the same in all workers
    repair.py          opens damaged shards again; what it replaces is put aside
    verify.py          the run recounted from its files: hashes, counts, keys, rows
    finalize.py        completes a run: statistics, contact sheet, report, card, index
    report/            report.html: the run on one page
    card.py            the dataset card (README.md)
    card_splits.py     its section about splits
    contact_sheet.py   a sheet of thumbnails
    chosen.py          which pictures are read, by their records
    splits.py          the splits of a dataset
    samples.py         samples of published tars, by their keys
    statistics.py      counts and times of a finished run, from its records
    open_picture.py    pictures of a run are opened however large they are
    spread.py          a sample that is spread evenly over a run

A room imports only rooms below it. This module is also a function: `batchgen.dataset(run)`.
"""

import sys
from types import ModuleType
from typing import Any

from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.repair import repair_run
from batchgen.dataset.report import write_report
from batchgen.dataset.split_copy import split_run
from batchgen.dataset.verify import Finding, manifest_trouble, verify_run

__all__ = [
    "Finding",
    "finalize_run",
    "manifest_trouble",
    "repair_run",
    "split_run",
    "verify_run",
    "write_report",
]


class _Callable(ModuleType):
    def __call__(self, *run: Any, **options: Any) -> Any:
        """The pictures of a run, for training; see `batchgen.dataset.loader.dataset`."""
        from batchgen.dataset.loader import dataset  # takes the seconds that torch takes

        return dataset(*run, **options)


sys.modules[__name__].__class__ = _Callable
