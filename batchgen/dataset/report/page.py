"""A run as one HTML page that needs no other file, no network and, but for its search, no script.

What prompts, hosts and errors say stands in the page as text: jinja escapes every value, and a
Content-Security-Policy lets the browser run this page's own script alone, and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from batchgen.dataset.provenance import model_name, without_paths
from batchgen.dataset.report.explained import FIGURES, prepare
from batchgen.dataset.report.gallery import Entry, sample_failures, sample_pictures, worst_pictures
from batchgen.dataset.report.numbers import Numbers, Worker, count_numbers
from batchgen.dataset.report.plots import plot_course, plot_steps, steps_of_a_cell
from batchgen.dataset.report.words import filters
from batchgen.dataset.spread import middles
from batchgen.dataset.statistics import Statistics
from batchgen.errors import DamagedRun
from batchgen.planning import Plan
from batchgen.run import Run, RunDirectory, read_submissions
from batchgen.settings import to_toml
from batchgen.shard import Done, Unpublished

MOST_BYTES = 5_000_000
NONE = Unpublished()
# Letters of a text that are shown, tried until the page is small enough.
LIMITS = (12_000, 2_000, 300)
# Pictures that are shown at once; the rest of the sample is folded away.
LEADING = 20
# Rows of a table: workers (the fastest and the slowest), sizes.
WORKERS, CLASSES = 40, 12
STAGES = {
    "group_text_s": "encode prompts",
    "group_denoise_s": "denoise",
    "group_decode_s": "decode",
    "image_encode_s": "encode the image",
    "total_s": "begin to written",
}


@dataclass(frozen=True, slots=True)
class Contents:
    """What a page shows."""

    run: Run
    numbers: Numbers
    unpublished: Unpublished
    pictures: Sequence[Entry]
    failures: Sequence[Entry]
    worst: Sequence[Entry]
    # Of a device-hour, in a currency of the reader's; None if it was not told.
    price: float | None


def report_page(
    run: Run,
    done: Sequence[Done],
    statistics: Statistics,
    unpublished: Unpublished = NONE,
    price: float | None = None,
) -> bytes:
    """The page: UTF-8, at most 5 MB, the same for the same records and price.

    :param done: all published shards, in their order.
    :param statistics: of the same shards.
    :param unpublished: pictures that are written to other shards.
    :param price: of a device-hour; None for that of the site where the run was last.
    :raises DamagedRun: a published file is gone or damaged.
    """
    directory, kind = run.directory, run.job.output.format
    numbers = count_numbers(directory, done, statistics)
    contents = Contents(
        run,
        numbers,
        unpublished,
        pictures=sample_pictures(directory, done, kind),
        failures=sample_failures(directory, done),
        worst=worst_pictures(directory, numbers.worst, kind),
        price=_site_price(directory) if price is None else price,
    )
    pages = (_render(contents, letters) for letters in LIMITS)
    return next(page for page in pages if len(page) <= MOST_BYTES)


def _site_price(directory: RunDirectory) -> float | None:
    """Of a GPU-hour of the site where the run was last; None if it is not known."""
    with suppress(DamagedRun):  # the pictures are what matters
        last = read_submissions(directory)[-1:]
        return last[0].site.price_per_gpu_hour if last and last[0].site else None
    return None


def _render(contents: Contents, letters: int) -> bytes:
    """The page, its texts cut after so many letters."""
    return _template(letters).render(_values(contents)).encode(errors="replace")


@cache
def _template(letters: int) -> Template:
    """The page's template. Most of a small page's time would be spent on reading it again."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters(letters)
    return environment.get_template("page.html.jinja")


def _values(contents: Contents) -> dict[str, Any]:
    """What the template calls by name."""
    run, numbers, statistics = contents.run, contents.numbers, contents.numbers.statistics
    ranks = run.job.parallel.degree
    leading = set(middles(len(contents.pictures), LEADING))
    return {
        "c": contents,
        "leading": [one for at, one in enumerate(contents.pictures) if at in leading],
        "further": [one for at, one in enumerate(contents.pictures) if at not in leading],
        "name": run.directory.root.name,
        "model": "test cards" if run.job.engine.kind == "pattern" else model_name(run),
        "numbers": numbers,
        "statistics": statistics,
        "pending": run.plan.pictures - statistics.pictures,
        "ranks": ranks,
        "device_s": statistics.device_s * ranks,
        "price": contents.price,
        "settings": to_toml(without_paths(run.job)),
        **_tables(numbers),
        **_explained(run.plan, ranks, numbers),
        **_own_files(),
    }


def _tables(numbers: Numbers) -> dict[str, Any]:
    """Rows of tables and marks of plots, and what stands at the ends of their bars."""
    statistics, classes = numbers.statistics, numbers.classes[:CLASSES]
    cell, longest = steps_of_a_cell(classes), max((one.steps for one in classes), default=1)
    slowest_s = max((told["p99"] for told in statistics.seconds.values()), default=0.0)
    best_rate = max((one.ok / (one.device_s or 1.0) for one in numbers.workers), default=0.0)
    return {
        "stages": [(STAGES[stage], told) for stage, told in statistics.seconds.items()],
        "slowest_s": slowest_s or 1.0,
        "failures": sorted(statistics.failures.items(), key=lambda item: (-item[1], item[0])),
        "course": plot_course(numbers.moments, numbers.moment_s),
        "workers": _ends(numbers.workers),
        "best_rate": best_rate or 1.0,
        "classes": [(one, plot_steps(one, longest, cell)) for one in classes],
        "longest": longest,
    }


def _explained(plan: Plan, ranks: int, numbers: Numbers) -> dict[str, Any]:
    """The figures that the page has, and what precedes their queries."""
    statistics = numbers.statistics
    absent = set() if statistics.loss.measured else {"audit"}
    if len(numbers.moments) < 2:
        absent.add("course")
    if statistics.scores.labels or not statistics.scores.scored:
        absent.add("score")
    if not statistics.scores.labels:
        absent.add("labels")
    cell = steps_of_a_cell(numbers.classes[:CLASSES])
    return {
        "figures": {one.name: one for one in FIGURES if one.name not in absent},
        "prepare": prepare(
            planned=plan.pictures,
            ranks=ranks,
            moment_s=numbers.moment_s,
            cell=cell,
            older=plan.is_older,
            later=plan.later,
            pending=plan.pictures > numbers.statistics.pictures,
        ),
    }


def _ends(workers: Sequence[Worker]) -> tuple[Sequence[Worker], Sequence[Worker]]:
    """The fastest workers and, if there are too many for one table, the slowest."""
    if len(workers) <= WORKERS:
        return workers, ()
    return workers[: WORKERS // 2], workers[-WORKERS // 2 :]


def _own_files() -> dict[str, str]:
    """Style and script, and their hashes, which are all that the page's policy lets act."""
    style, script = _read("style.css"), _read("page.js")
    hashes = {"style_hash": _hash(style), "script_hash": _hash(script)}
    return {"style": style, "script": script, **hashes}


def _read(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a Content-Security-Policy names a script or a style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
