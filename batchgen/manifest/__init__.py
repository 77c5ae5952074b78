"""The manifest: rows of prompts → pictures. Imports no torch.

    contract.py    which columns, of which types, with which values
    files.py       find the files, identify them, read Parquet as a stream
    convert.py     CSV and JSONL → one Parquet file, once
    survey.py      the validation pass (checks.py: a batch; duplicates.py: ids; utf8.py; problems.py)
    shapes.py      sizes, steps and pictures of all rows, to cut shards and groups
    rows.py        a range of rows → pictures: what a worker reads
    extras.py      columns that travel along: metadata and JSON
    picture.py     the unit of work

A row's number in the order of the sorted files is its index; a picture's key is its running number over rows × images.
"""

from batchgen.manifest.checks import Limits
from batchgen.manifest.convert import to_parquet
from batchgen.manifest.extras import extras
from batchgen.manifest.files import Source, check_unchanged, find_files, kind_of
from batchgen.manifest.picture import Picture
from batchgen.manifest.rows import pictures, read_rows, row_seed
from batchgen.manifest.shapes import Shapes, image_shapes
from batchgen.manifest.survey import Shape, Survey, survey

__all__ = [
    "Limits",
    "Picture",
    "Shape",
    "Shapes",
    "Source",
    "Survey",
    "check_unchanged",
    "extras",
    "find_files",
    "image_shapes",
    "kind_of",
    "pictures",
    "read_rows",
    "row_seed",
    "survey",
    "to_parquet",
]
