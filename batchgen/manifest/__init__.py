"""The manifest: rows of prompts become pictures to make. Imports no torch.

    validate.py     check every row before a run is planned
    duplicates.py   find ids that two rows share
    checks.py       check one batch of rows against the columns' contract
    shapes.py       size, steps and number of pictures of each row, for cutting shards
    rows.py         read a range of rows and expand it to pictures: what a worker does
    convert.py      CSV or JSON lines to one Parquet file
    csv_rows.py     CSV as typed batches
    jsonl_rows.py   JSON lines as typed batches
    extras.py       columns outside the contract, as JSON
    parquet.py      one Parquet file as a stream of batches
    files.py        find the files and identify them
    contract.py     which columns there are, of which types, with which values
    utf8.py         find and replace bytes that are not UTF-8
    problems.py     count all problems, show the first ten

A room imports only rooms below it.

Rows are numbered over all files, in the order of the sorted files. A picture's key is its running
number over the pictures of all rows.
"""

from batchgen.manifest.checks import Limits
from batchgen.manifest.convert import to_parquet
from batchgen.manifest.extras import extra_columns
from batchgen.manifest.files import Source, check_unchanged, find_files, kind_of
from batchgen.manifest.rows import Picture, pictures, read_rows
from batchgen.manifest.shapes import ShapeColumns, image_shapes
from batchgen.manifest.validate import validate_manifest

__all__ = [
    "Limits",
    "Picture",
    "ShapeColumns",
    "Source",
    "check_unchanged",
    "extra_columns",
    "find_files",
    "image_shapes",
    "kind_of",
    "pictures",
    "read_rows",
    "to_parquet",
    "validate_manifest",
]
