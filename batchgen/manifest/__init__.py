"""The manifest: rows of prompts become pictures to make. Imports no torch.

    validate.py     check every row before a run is planned
    duplicates.py   find ids that two rows share
    checks.py       check one batch of rows against the columns' contract
    words.py        an upper bound for the tokens of long prompts, from those of their words
    effects.py      values that change no picture, counted
    shapes.py       size, steps and number of pictures of each row, for cutting shards
    rows.py         read a range of rows and expand it to pictures: what a worker does
    convert.py      text tables and Arrow files to one Parquet file
    csv_rows.py     CSV and TSV as typed batches
    csv_dialect.py  what separates the fields of a CSV file; its records
    jsonl_rows.py   JSON lines as typed batches
    json_line.py    one line of JSON, parsed strictly
    txt_rows.py     a text file with a prompt a line
    arrow_rows.py   Arrow files as batches
    text_file.py    UTF-8 or UTF-16, compressed or not
    extras.py       columns that travel along, as JSON
    json_types.py   the type of each of them in the samples' JSON
    parquet.py      one Parquet file as a stream of batches
    columns.py      which columns are read as which of the contract, and which travel along
    near_misses.py  names that look like a column of the contract
    fetch.py        files behind URLs, brought here once
    find.py         find the files
    files.py        identify the files
    signatures.py   what a file is by its first bytes
    contract.py     which columns there are, of which types, with which values
    utf8.py         find and replace bytes that are not UTF-8
    problems.py     count all problems, show the first ten

A room imports only rooms below it.

Rows are numbered over all files, in the order of the sorted files. A picture's key is its running
number over the pictures of all rows.
"""

from batchgen.manifest.checks import Limits
from batchgen.manifest.columns import column_label, deciding, list_columns
from batchgen.manifest.contract import plain
from batchgen.manifest.effects import Effects
from batchgen.manifest.extras import NOTHING, extra_columns
from batchgen.manifest.fetch import gather_files, names_of
from batchgen.manifest.files import Source, check_unchanged, identify_file
from batchgen.manifest.find import find_files, kind_of
from batchgen.manifest.json_types import JsonType, json_type
from batchgen.manifest.rows import (
    ManifestRows,
    Picture,
    another_seed,
    listed_pictures,
    pictures,
    read_rows,
)
from batchgen.manifest.shapes import ShapeColumns, decode_shape, image_shapes
from batchgen.manifest.validate import ValidManifest, validate_manifest

__all__ = [
    "NOTHING",
    "Effects",
    "JsonType",
    "Limits",
    "ManifestRows",
    "Picture",
    "ShapeColumns",
    "Source",
    "ValidManifest",
    "another_seed",
    "check_unchanged",
    "column_label",
    "deciding",
    "decode_shape",
    "extra_columns",
    "find_files",
    "gather_files",
    "identify_file",
    "image_shapes",
    "json_type",
    "kind_of",
    "list_columns",
    "listed_pictures",
    "names_of",
    "pictures",
    "plain",
    "read_rows",
    "validate_manifest",
]
