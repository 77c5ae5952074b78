"""What readers get beside the tars, and the check that it is what was made.

    repair.py          opens damaged shards again; what it replaces is put aside
    verify.py          the run recounted from its files: hashes, counts, keys, rows
    export.py          a complete run copied, its pictures signed
    finalize.py        completes a run: statistics, contact sheet, report, card, index
    report/            report.html: the run on one page
    card.py            the dataset card (README.md)
    signing.py         signed C2PA manifests
    provenance.py      model, LoRAs, licences and settings, as the card says them
    contact_sheet.py   a sheet of thumbnails
    statistics.py      counts and times of a finished run, from its records
    open_picture.py    pictures of a run are opened however large they are
    spread.py          a sample that is spread evenly over a run

A room imports only rooms below it.
"""

from batchgen.dataset.export import export_run
from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.provenance import source_type
from batchgen.dataset.repair import repair_run
from batchgen.dataset.report import write_report
from batchgen.dataset.signing import open_signer
from batchgen.dataset.verify import Finding, manifest_trouble, verify_run

__all__ = [
    "Finding",
    "export_run",
    "finalize_run",
    "manifest_trouble",
    "open_signer",
    "repair_run",
    "source_type",
    "verify_run",
    "write_report",
]
