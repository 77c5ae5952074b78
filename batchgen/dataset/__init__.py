"""What readers get beside the tars, and the check that it is what was made.

    push/              sends it to where readers get it
    loader.py          a run as a webdataset pipeline; `batchgen.dataset(run)` calls it
    export.py          a copy with tars for each split, its pictures signed if asked
    exported_records.py   the records of the copy
    exported_tars.py   its tars
    passes.py          which epoch a pass is, the same in all workers
    repair.py          opens damaged shards again; what it replaces is put aside
    verify.py          the run recounted from its files: hashes, counts, keys, rows
    summaries.py       card, statistics, report and index against the records
    verify_lists.py    the lists of later generations, likewise
    finalize.py        completes a run: statistics, contact sheet, report, card, index
    report/            report.html: the run on one page
    wids.py            index.json
    card.py            the dataset card (README.md)
    card_features.py   the types of samples in it
    card_splits.py     its section about splits
    signing.py         signed C2PA manifests
    provenance.py      model, LoRAs, licences and settings, as the card says them
    contact_sheet.py   a sheet of thumbnails
    chosen.py          which pictures are read, by their records
    splits.py          the splits of a dataset
    samples.py         samples of published tars, by their keys
    statistics.py      counts and times of a finished run, from its records
    scores.py          what the scorer said, counted
    open_picture.py    pictures of a run are opened however large they are
    spread.py          a sample that is spread evenly over a run

A room imports only rooms below it. This module is also a function: `batchgen.dataset(run)`.
"""

import sys
from types import ModuleType
from typing import Any

from batchgen.dataset.export import export_run
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.provenance import source_type
from batchgen.dataset.push import Pushed, push_run
from batchgen.dataset.repair import repair_run
from batchgen.dataset.report import write_report
from batchgen.dataset.signing import open_signer
from batchgen.dataset.verify import Finding, manifest_trouble, verify_run

__all__ = [
    "Finding",
    "Pushed",
    "export_run",
    "finalize_run",
    "manifest_trouble",
    "open_signer",
    "push_run",
    "repair_run",
    "source_type",
    "verify_run",
    "write_report",
]


class _Callable(ModuleType):
    def __call__(self, *run: Any, **options: Any) -> Any:
        """The pictures of a run, for training; see `batchgen.dataset.loader.dataset`."""
        from batchgen.dataset.loader import dataset  # takes the seconds that torch takes

        return dataset(*run, **options)


sys.modules[__name__].__class__ = _Callable
