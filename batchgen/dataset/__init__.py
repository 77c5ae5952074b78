"""What readers get beside the tars, and the check that it is what was made.

    repair.py          opens damaged shards again; what it replaces is put aside
    verify.py          the run recounted from its files: hashes, counts, keys, rows
    verify_lists.py    the lists of later generations, likewise
    finalize.py        completes a run: statistics, contact sheet, report, card, index
    report/            report.html: the run on one page
    card.py            the dataset card (README.md)
    contact_sheet.py   a sheet of thumbnails
    statistics.py      counts and times of a finished run, from its records
    open_picture.py    pictures of a run are opened however large they are
    spread.py          a sample that is spread evenly over a run

A room imports only rooms below it.
"""

from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.repair import repair_run
from batchgen.dataset.report import write_report
from batchgen.dataset.verify import Finding, manifest_trouble, verify_run

__all__ = [
    "Finding",
    "finalize_run",
    "manifest_trouble",
    "repair_run",
    "verify_run",
    "write_report",
]
