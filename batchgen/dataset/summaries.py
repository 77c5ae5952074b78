"""What a complete run says of itself, held against its records: card, statistics, report, index.

A person may have edited the card, so its words are free; a count in it that the records contradict
is not. The other files are written by batchgen alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchgen.checked_json import unseal
from batchgen.dataset.finalize import summarize
from batchgen.dataset.open_picture import open_picture
from batchgen.dataset.statistics import Statistics
from batchgen.dataset.wids import run_index
from batchgen.errors import DamagedRun, shell_command
from batchgen.regular_file import read_regular
from batchgen.run import Run, RunDirectory
from batchgen.shard import Done, committed_shards, missing_names, read_done


def wrong_summaries(run: Run) -> dict[Path, str]:
    """Files beside the shards that are gone, damaged or wrong, and why.

    Nothing is said of a run that is not complete or that has lost a file of a shard.
    """
    directory, planned = run.directory, set(range(len(run.plan.shards)))
    if not directory.complete() or planned - committed_shards(directory):
        return {}
    try:
        done = [read_done(directory, shard) for shard in sorted(planned)]
        if any(missing_names(directory, one) for one in done):
            return {}
        statistics = summarize(directory, done)
    except DamagedRun:  # is told with its shard
        return {}
    root = directory.root
    troubles = {
        directory.index: _index(run, done),
        root / "statistics.json": _statistics(root / "statistics.json", statistics),
        root / "README.md": _counts(root / "README.md", _card(statistics)),
        root / "report.html": _counts(root / "report.html", _report(statistics)),
        root / "contact.jpg": _picture(root / "contact.jpg") if statistics.ok else "",
    }
    # Batchgen 0.2 and older wrote no report.
    wrong = {path: trouble for path, trouble in troubles.items() if trouble}
    return {path: why for path, why in wrong.items() if path.exists() or not run.plan.is_older}


def anew(directory: RunDirectory) -> str:
    """What to do about them."""
    command = shell_command("batchgen", "verify", directory.root, "--repair")
    return f"To put it aside and write it anew: {command}"


def _index(run: Run, done: Sequence[Done]) -> str:
    """The name in it is the one that the run's folder had once: folders are renamed."""
    try:
        found = unseal(read_regular(run.directory.index))
    except (ValueError, OSError):
        found = {}
    right: dict[str, object] = json.loads(run_index(run.directory, done, run.plan.last_generation))
    same = found | {"name": ""} == right | {"name": ""}
    return "" if same else "does not list the tars that are there"


def _statistics(path: Path, statistics: Statistics) -> str:
    try:
        found = json.loads(read_regular(path))
        names = list(_differences(found, json.loads(json.dumps(asdict(statistics)))))
    except (ValueError, AttributeError):
        return "is not the JSON that was written"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return f"{', '.join(names)}: not what the records give" if names else ""


def _differences(found: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[str]:
    """Keys whose values differ by more than rounding. Another version may have other keys."""
    for key in found.keys() & right.keys():
        ours, theirs = found[key], right[key]
        if isinstance(theirs, dict):
            yield from (f"{key}.{name}" for name in _differences(ours, theirs))
        elif isinstance(theirs, float) and isinstance(ours, float):
            if abs(ours - theirs) > 1e-6 * abs(theirs):
                yield key
        elif ours != theirs:
            yield key


def _card(statistics: Statistics) -> dict[str, str]:
    """Patterns of counts on the card, and what stands there."""
    sizes = {rf"\| {size} \| ([\d,]+) \|": f"{many:,}" for size, many in statistics.sizes.items()}
    return {
        r"(?m)^([\d,]+) pictures? painted by": f"{statistics.ok:,}",
        r"(?m)^([\d,]+) of [\d,]+ planned pictures? could not be made": f"{statistics.failed:,}",
        r"(?m)^[\d,]+ of ([\d,]+) planned pictures? could not be made": f"{statistics.pictures:,}",
        **sizes,
    }


def _report(statistics: Statistics) -> dict[str, str]:
    counts = {"ok": statistics.ok, "failed": statistics.failed, "pending": 0}
    tile = r'data-figure="{}">\s*<b><data value="(.*?)">'
    last = {r"(\S{1,7})\s*\Z": "</html>"}
    return last | {tile.format(name): str(count) for name, count in counts.items()}


def _counts(path: Path, counts: Mapping[str, str]) -> str:
    """What a text has where these patterns match it, if that is something else."""
    try:
        text = read_regular(path).decode()
    except ValueError:
        return "is no text in UTF-8"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    for pattern, right in counts.items():
        found = re.search(pattern, text, re.DOTALL)
        if found and found[1] != right:
            return f"has {found[1]!r} where the records give {right!r}"
    return ""


def _picture(path: Path) -> str:
    try:
        with open_picture(read_regular(path)) as image:
            image.load()
    except (OSError, SyntaxError) as error:  # Pillow raises SyntaxError for a broken picture
        return f"cannot be read: {error}"
    return ""
