"""One line of JSON lines, parsed strictly: as RFC 8259 defines JSON, and alike for every reader.

Python's parser takes NaN, lets the last of equal keys win, makes infinity of 1e400, and runs out of
stack where lists are nested deeply.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from typing import Any

from batchgen.manifest.extras import json_text
from batchgen.manifest.problems import shorten
from batchgen.manifest.utf8 import encodable

# Lists and objects inside of each other.
_DEPTH = 500


def parse_line(line: str) -> dict[str, Any]:
    """Parse a line of JSON lines.

    :raises ValueError: it is not a JSON object that every reader understands alike.
    """
    if not encodable(line):
        raise ValueError("not valid UTF-8; save the file as UTF-8")
    _refuse_deep(line)
    found = json.loads(
        line.removeprefix("\ufeff"),
        parse_constant=_refuse,
        parse_float=_finite,
        object_pairs_hook=_unique,
    )
    if not isinstance(found, dict):
        raise ValueError(f"found {shorten(json_text(found))}")
    for name in found:
        name.encode()
    return found


def _refuse_deep(line: str) -> None:
    """Refuse lists and objects inside of each other that other readers cannot parse.

    :raises ValueError: they are deeper.
    """
    if line.count("[") + line.count("{") <= _DEPTH:
        return
    depth = deepest = 0
    for bracket in re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*+"', "", line)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEPTH:
        raise ValueError(f"nested {deepest} deep; at most {_DEPTH} lists and objects are read")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON; write null")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{shorten(text)} is too large for a number")
    return number


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object; readers disagree about one with a key twice."""
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(
            name for name, count in Counter(name for name, _ in pairs).items() if count > 1
        )
        raise ValueError(f"the key {shorten(twice)} stands twice")
    return found
