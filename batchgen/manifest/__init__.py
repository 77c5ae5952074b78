"""The manifest: rows of prompts → pictures to make. Imports no torch.

    validate.py     the pass over every row before a run is planned
    checks.py       the contract, checked on one batch of rows
    duplicates.py   ids that stand twice
    rows.py         a range of rows → pictures: what a worker reads
    convert.py      CSV and JSON lines → one Parquet file, once
    csv_rows.py     CSV as typed batches
    jsonl_rows.py   JSON lines as typed batches
    shapes.py       sizes, steps and numbers of pictures of all rows, to cut shards
    extras.py       columns that travel along into metadata and JSON
    files.py        find the files, identify them, stream Parquet
    contract.py     which columns, of which types, with which values
    problems.py     all problems counted, the first ten shown
    utf8.py         bytes that are no text
    picture.py      the unit of work

A row's number, in the order of the sorted files, is its index. A picture's key is its running
number over rows × images.
"""

from batchgen.manifest.checks import Limits
from batchgen.manifest.convert import to_parquet
from batchgen.manifest.extras import extra_columns
from batchgen.manifest.files import Source, check_unchanged, find_files, kind_of
from batchgen.manifest.picture import Picture
from batchgen.manifest.rows import pictures, read_rows, row_seed
from batchgen.manifest.shapes import ShapeColumns, image_shapes
from batchgen.manifest.validate import ValidManifest, validate_manifest

__all__ = [
    "Limits",
    "Picture",
    "ShapeColumns",
    "Source",
    "ValidManifest",
    "check_unchanged",
    "extra_columns",
    "find_files",
    "image_shapes",
    "kind_of",
    "pictures",
    "read_rows",
    "row_seed",
    "to_parquet",
    "validate_manifest",
]
