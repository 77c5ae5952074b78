"""What readers get beside the tars, and the check that it is what was made.

    finalize.py        completes a run: statistics, contact sheet, card, index
    card.py            the dataset card (README.md)
    contact_sheet.py   a sheet of thumbnails
    statistics.py      counts and times of a finished run, from its records
    verify.py          hashes, counts and keys, recounted from the files
    open_picture.py    pictures of a run are opened however large they are

A room imports only rooms below it.
"""

from batchgen.dataset.finalize import finalize_run
from batchgen.dataset.verify import verify_run

__all__ = ["finalize_run", "verify_run"]
