"""Mutated manifests: Parquet, CSV and JSON lines, whole folders, and their paths.

An accepted manifest is rehearsed, and the records of its pictures are compared with the table as
another reader reads it.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.mutations.hostile import NUMBERS, TEXTS, mutate_file, mutated_bytes, near, value
from benchmarks.mutations.manifest_judge import SETTINGS, Row, read_again, wrong
from benchmarks.mutations.trial import Trial

_COLUMNS: dict[str, tuple[object, ...]] = {
    "id": ("a-{n}", "picture {n}"),
    "negative_prompt": ("", "blurred", None),
    "seed": (0, 1, 2**40),
    "width": (16, 32, 48),
    "height": (16, 64),
    "steps": (1, 4),
    "guidance": (0.0, 3.5, 7),
    "true_cfg": (1.0, 4.5),
    "images": (1, 2, 3),
    "topic": ("cats", "dogs", None),
    "score": (0.5, None, 1e9),
}
_NEAR_NAMES = (
    *("Prompt", "prompt ", "text", "caption", "seeds", "Width", "num_images", "guidance_scale"),
    *("num_inference_steps", "key", "json", "extra", "", "prompt", "__index_level_0__", "row"),
)
_TYPES = (
    *(pa.int8(), pa.int32(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string()),
    *(pa.large_string(), pa.binary(), pa.bool_(), pa.decimal128(20, 2), pa.null(), pa.date32()),
    *(pa.timestamp("ns", "UTC"), pa.list_(pa.int64()), pa.list_(pa.string()), pa.duration("s")),
    *(pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64()), pa.string_view()),
    *(pa.dictionary(pa.int32(), pa.string()), pa.binary(4), pa.time64("us"), pa.int64()),
)


def trial(chance: Random, folder: Path) -> Trial:
    """A manifest with one mutation, planned."""
    rows = _rows(chance)
    make = chance.choice((_parquet, _parquet, _typed_parquet, _csv, _csv, _jsonl, _jsonl))
    path, about = make(chance, folder, rows)
    if chance.random() < 0.1:
        path, about = _elsewhere(chance, path, about)
    expected = read_again(path)
    given = [path]
    if chance.random() < 0.05:
        given, expected = [path, path], None
    return Trial(
        about,
        [["plan", *given, *SETTINGS]],
        wrong_if_accepted=lambda answers: wrong(answers, given, folder, expected),
    )


def _rows(chance: Random) -> list[Row]:
    """Rows of a sound manifest."""
    count = chance.randrange(1, 9)
    names = chance.sample(list(_COLUMNS), chance.randrange(len(_COLUMNS)))
    rows: list[Row] = [{"prompt": f"a red circle {n}"} for n in range(count)]
    for name in names:
        for n, row in enumerate(rows):
            given = chance.choice(_COLUMNS[name])
            row[name] = given.format(n=n) if isinstance(given, str) else given
    return rows


def _mutate_rows(chance: Random, rows: list[Row]) -> str:
    """Change a cell, a column's name or the set of columns in place."""
    name, row = chance.choice(list(rows[0])), chance.randrange(len(rows))
    kind = chance.randrange(10)
    if kind < 4:
        rows[row][name] = value(chance)
    elif kind < 6:
        rows[row][name] = near(chance, rows[row][name])
    elif kind == 6:
        new_name = chance.choice((*_NEAR_NAMES, *TEXTS))
        for one in rows:
            one[new_name] = one.pop(name)
        return f"column {name!r} named {new_name[:50]!r}"
    elif kind == 7:
        for one in rows:
            del one[name]
        return f"no column {name}"
    elif kind == 8:
        for one in rows:
            one[name] = value(chance)
        return f"column {name} of any values"
    else:
        new_name = chance.choice(_NEAR_NAMES)
        for one in rows:
            one[new_name] = chance.choice(NUMBERS[:12] + TEXTS[:20])
        return f"a further column {new_name!r}"
    return f"{name} of row {row} = {repr(rows[row][name])[:50]}"


def _parquet(chance: Random, folder: Path, rows: list[Row]) -> tuple[Path, str]:
    about, path = "", folder / "prompts.parquet"
    if chance.random() < 0.6:
        about = _mutate_rows(chance, rows)
    names = list(rows[0])
    arrays = [_array([row.get(name) for row in rows]) for name in names]
    table = pa.table(arrays, names=[name.encode("utf-8", "replace").decode() for name in names])
    pq.write_table(_with_metadata(chance, table), path)
    if not about:
        about = mutate_file(chance, path, strange=0.3)
    return path, f"Parquet, {about}"


def _typed_parquet(chance: Random, folder: Path, rows: list[Row]) -> tuple[Path, str]:
    """A column of another type, or the file as another writer writes it."""
    path, name = folder / "prompts.parquet", chance.choice(list(rows[0]))
    kind = chance.choice(_TYPES)
    table = pa.table({key: _array([row[key] for row in rows]) for key in rows[0]})
    array = _cast(table[name].combine_chunks(), kind)
    table = table.set_column(table.column_names.index(name), name, array)
    about = f"column {name} of type {kind}"
    if chance.random() < 0.2:
        table = table.append_column(name, table[name])
        about += ", twice"
    if chance.random() < 0.1:
        table, about = table.slice(0, 0), f"{about}, no rows"
    codec = chance.choice(("snappy", "zstd", "gzip", "brotli", "lz4", "none"))
    more = {"row_group_size": chance.choice((1, 3, 100)), "version": chance.choice(("1.0", "2.6"))}
    try:
        pq.write_table(_with_metadata(chance, table), path, compression=codec, **more)
    except (pa.ArrowException, OverflowError):  # a type that Parquet does not have
        pq.write_table(
            pa.table({"prompt": pa.array([], kind)}) if kind == pa.null() else table.select([]),
            path,
        )
        about = "no columns"
    return path, f"Parquet, {about}"


def _array(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):  # of several types
        texts = [None if one is None else str(one) for one in values]
        return pa.array([one and one.encode("utf-8", "replace").decode() for one in texts])


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return array.cast(kind)
    except pa.ArrowException:
        return pa.nulls(len(array), kind)


def _with_metadata(chance: Random, table: pa.Table) -> pa.Table:
    if chance.random() > 0.2:
        return table
    key = chance.choice(
        ("batchgen.origins", "pandas", "huggingface", "\x1b[31m", "ARROW:extension:name")
    )
    text = chance.choice(
        (*TEXTS, "[]", "{}", '[["a.csv", "x"]]', '{"a.csv": -1}', '[["b.csv", 3, 1]]')
    )
    return table.replace_schema_metadata({key: text.encode("utf-8", "replace")})


def _csv(chance: Random, folder: Path, rows: list[Row]) -> tuple[Path, str]:
    about = _mutate_rows(chance, rows) if chance.random() < 0.4 else ""
    delimiter, suffix = chance.choice(((",", ".csv"), (",", ".csv"), (";", ".csv"), ("\t", ".tsv")))
    text = io.StringIO()
    writer = csv.DictWriter(
        text, list(rows[0]), delimiter=delimiter, restval="", extrasaction="ignore"
    )
    writer.writeheader()
    writer.writerows(rows)
    return _text_file(chance, folder / f"prompts{suffix}", text.getvalue(), about)


def _jsonl(chance: Random, folder: Path, rows: list[Row]) -> tuple[Path, str]:
    about = _mutate_rows(chance, rows) if chance.random() < 0.4 else ""
    ascii_only = chance.random() < 0.5
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    if not about and chance.random() < 0.5:
        place = chance.randrange(len(lines))
        given = json.loads(lines[place])
        lines[place], about = _json_line(chance, given)
    return _text_file(chance, folder / "prompts.jsonl", "\n".join(lines) + "\n", about)


def _json_line(chance: Random, row: Row) -> tuple[str, str]:
    deep = 3_000
    ways: dict[str, Callable[[], str]] = {
        "a list": lambda: json.dumps(list(row)),
        "deep lists": lambda: json.dumps(row)[:-1] + ', "deep": ' + "[" * deep + "]" * deep + "}",
        "deep objects": lambda: (
            '{"prompt": "x", "deep": ' + '{"a":' * deep + "1" + "}" * (deep + 1)
        ),
        "prompt twice": lambda: '{"prompt": "first", ' + json.dumps(row)[1:],
        "a number of 5,000 digits": lambda: json.dumps(row)[:-1] + ', "n": ' + "9" * 5_000 + "}",
        "Infinity": lambda: json.dumps(row)[:-1] + ', "score": Infinity}',
        "half a character": lambda: json.dumps(row | {"prompt": "\ud800"}),
        "an empty object": lambda: "{}",
        "an empty key": lambda: json.dumps(row | {"": 1}),
        "a key with control characters": lambda: json.dumps(row | {"\x1b[2J\x07": 1}),
        "two objects": lambda: json.dumps(row) + json.dumps(row),
        "blank": lambda: "   ",
    }
    way = chance.choice(list(ways))
    return ways[way](), f"a line: {way}"


def _text_file(chance: Random, path: Path, text: str, about: str) -> tuple[Path, str]:
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    if not about:
        about = mutate_file(chance, path, mutated_bytes, strange=0.15)
    if chance.random() < 0.1 and path.is_file() and not path.is_symlink():
        packed = path.with_name(path.name + ".gz")
        packed.write_bytes(gzip.compress(path.read_bytes(), mtime=0))
        path.unlink()
        path, about = packed, f"{about}, gzip"
    return path, f"{path.suffix}, {about}"


def _elsewhere(chance: Random, path: Path, about: str) -> tuple[Path, str]:
    """The manifest under another name, or in a folder beside other files."""
    kind = chance.randrange(4)
    names = (
        "%j.parquet",
        "a b.csv",
        "$HOME.jsonl",
        "x\ny.csv",
        "\x1b[31m.parquet",
        "[a].csv",
        "*.csv",
    )
    if kind == 0:
        target = path.with_name(
            chance.choice((*names, "\udcff.csv", "\u202ex.parquet", "PROMPTS.PARQUET"))
        )
    elif kind == 1:
        (path.parent / "many").mkdir()
        target = path.parent / "many" / path.name
        (
            path.parent / "many" / chance.choice(("b.csv", "._a.parquet", "notes.txt", "c.parquet"))
        ).touch()
        path.rename(target)
        return target.parent, f"{about}, in a folder with another file"
    elif kind == 2:
        target = path.parent / "deeper" / path.name
        target.parent.mkdir()
        path.rename(target)
        return path.parent, f"{about}, in a folder in the folder"
    else:
        target = path.with_suffix(
            chance.choice((".txt", ".json", "", ".arrow", ".PARQUET", ".csv", ".gz"))
        )
    if path.exists():
        path.rename(target)
    return target, f"{about}, named {target.name!r}"
