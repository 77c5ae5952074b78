"""Whether an accepted manifest was read as another reader reads it: plan, rehearsal, records."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.mutations.trial import Answers, ask

Row = dict[str, Any]
_SMALL = ("sampling.width=32", "sampling.height=16", "sampling.steps=2", "run.workers=1")
SETTINGS = [word for one in _SMALL for word in ("--set", one)]
# A manifest of more pictures is planned and not rehearsed.
_MOST_PICTURES, _MOST_PX = 200, 256


def read_again(path: Path) -> list[Row] | None:
    """The rows of a manifest by another reader; None where readers may differ."""
    if not path.is_file():
        return None
    try:
        if path.suffix == ".parquet":
            return list(pq.ParquetFile(path).read().to_pylist())
        if path.suffix == ".jsonl":
            lines = path.read_text("utf-8-sig").splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        return None
    except Exception:  # noqa: BLE001 - not readable in whatever way
        return None


def wrong(answers: Answers, given: list[Path], folder: Path, rows: list[Row] | None) -> str:
    """What is wrong with the plan of an accepted manifest, and with its rehearsal."""
    planned = re.search(r"([\d,]+) rows?, ([\d,]+) pictures?", answers[0].out)
    if not planned:
        return f"the plan does not count rows and pictures: {answers[0].out[:200]}"
    count, pictures = (int(number.replace(",", "")) for number in planned.groups())
    sizes = [int(px) for size in re.findall(r"(\d+)×(\d+)", answers[0].out) for px in size]
    if rows is not None and len(rows) != count:
        return f"planned are {count} rows; another reader finds {len(rows)}"
    if rows is None or pictures > _MOST_PICTURES or max(sizes) > _MOST_PX:
        return ""
    out = folder / "run"
    rehearsal = ask(["submit", *given, "--rehearse", "--detach", "--out", out, *SETTINGS])
    if rehearsal.raised:
        return f"planned, and a rehearsal raises {rehearsal.raised}"
    if rehearsal.code:
        return f"planned, and a rehearsal is refused: {rehearsal.err}"
    return _wrong_records(out, rows, pictures)


def _wrong_records(run: Path, rows: list[Row], pictures: int) -> str:
    """How the records of a rehearsal differ from the rows of its manifest; "" if they do not."""
    read = (pq.read_table(path).to_pylist() for path in sorted(run.glob("metadata/*.parquet")))
    records = sorted((record for part in read for record in part), key=lambda one: one["index"])
    if len(records) != pictures:
        return f"planned are {pictures} pictures, recorded {len(records)}"
    wanted = [row for row in rows for _ in range(int(row.get("images") or 1))]
    if len(wanted) != len(records):
        return f"{len(wanted)} pictures are asked for, {len(records)} recorded"
    for row, record in zip(wanted, records, strict=True):
        for name in ("prompt", "id", "negative_prompt", "width", "height", "steps"):
            asked, was = row.get(name), record[name]
            if not _means(asked, was):
                return f"row {record['row']}: {name} is {asked!r}, recorded {was!r}"
        if record["image"] == 0 and not _means(row.get("seed"), record["seed"]):
            return f"row {record['row']}: seed is {row['seed']!r}, recorded {record['seed']!r}"
    return ""


def _means(asked: Any, recorded: Any) -> bool:
    """Whether a value of a table is what was recorded. Null, "" and NaN ask for nothing."""
    nothing = asked is None or asked == "" or (isinstance(asked, float) and math.isnan(asked))
    if isinstance(asked, float) and asked.is_integer():  # 32.0 is 32, and so is its text
        asked = int(asked)
    return nothing or asked == recorded or str(asked) == str(recorded)
