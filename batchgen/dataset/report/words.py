"""Numbers, times and records as people read them: the filters of the page's template."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from batchgen.errors import brief, counted
from batchgen.units import data_size, duration, money

# Letters of a prompt beside its picture.
CAPTION = 200
# Control characters that HTML cannot show; line breaks and tabs it can.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def filters(letters: int) -> dict[str, Callable[..., Any]]:
    """The filters, by name.

    :param letters: after which `text` cuts.
    """
    return {
        "whole": lambda value: f"{value:,.0f}",
        "percent": lambda value: f"{value:.0%}",
        "at": lambda value: f"{value:.2f}",
        "number": lambda value: f"{value:.4g}",
        "money": money,
        "rate": rate,
        "seconds": seconds,
        "duration": lambda value: seconds(value) if value < 1 else duration(value),
        "hours": hours,
        "size": data_size,
        "utc": lambda at: _time(at).strftime("%Y-%m-%d %H:%M:%S UTC"),
        "clock": lambda at: _time(at).strftime("%d %b %H:%M:%S"),
        "counted": counted,
        "caption": lambda text: legible(brief(text, CAPTION)),
        "text": lambda text: legible(text[:letters]),
        "is_cut": lambda text: len(text) > letters,
        "fields": fields,
        "path": steps_path,
    }


def rate(value: float) -> str:
    """A number of pictures an hour: `1,234`, `12.3`, `0.123`."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def seconds(value: float) -> str:
    """A latency: `0.5 ms`, `42.1 s`, `12 min`."""
    if value < 1:
        return f"{value * 1000:.3g} ms"
    return f"{value:.3g} s" if value < 90 else duration(value)


def hours(value: float) -> str:
    """Seconds of devices, never in days, because devices are paid by the hour: `1,234 h`."""
    if value < 1:
        return seconds(value)
    return duration(value) if value < 5400 else f"{value / 3600:,.1f} h"


def legible(text: str) -> str:
    r"""`text` with its control characters escaped, as `\x1b[2J`; a browser shows all others."""
    return _CONTROLS.sub(lambda found: repr(found[0])[1:-1], text)


def fields(record: dict[str, Any]) -> list[tuple[str, str]]:
    """A record's columns as text, without the prompts, which stand by themselves."""
    prompts = ("prompt", "negative_prompt")
    return [(name, _written(value)) for name, value in record.items() if name not in prompts]


def steps_path(record: dict[str, Any]) -> str:
    """An SVG path of a square for each step that was computed; a step is one unit wide."""
    skipped = record["skipped"] or "0" * record["steps"]
    return "".join(f"M{at} 0h.9v1h-.9z" for at, letter in enumerate(skipped) if letter != "1")


def _written(value: Any) -> str:
    """A value of a record."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, list):
        items = (_written(item) for item in value)
        return f"[{', '.join(items)}]"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return "–" if value is None or value == "" else str(value)


def _time(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)
