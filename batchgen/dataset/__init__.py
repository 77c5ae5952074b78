"""What readers get beside the tars, and the recount that proves it.

    finalize.py        the last worker completes the run: statistics, card, contact sheet, index
    card.py            the dataset card (README.md)
    contact_sheet.py   a sheet of thumbnails
    statistics.py      numbers of a finished run, from its records
    verify.py          hashes, counts and keys, recounted from the files

A room imports only rooms below it.
"""

from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.verify import verify_run

__all__ = ["finalize_run", "verify_run"]
