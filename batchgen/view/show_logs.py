"""What the workers printed, which pictures failed and why, and why workers are gone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory, load_plan, own_lines
from batchgen.shard import (
    Superseded,
    key_text,
    published_shards,
    read_metadata,
    unpublished_records,
)
from batchgen.slurm import Queue
from batchgen.view.console import print_lines
from batchgen.view.last_words import last_words
from batchgen.view.roster import take_roll
from batchgen.view.status import read_status

# Seconds between two looks at the logs that are followed.
POLL_S = 0.5
# Least seconds between two questions to squeue.
SLURM_S = 10.0


def show_logs(console: Console, directory: RunDirectory, worker: int | None, lines: int) -> None:
    """The ends of the workers' logs, and of what batch scripts printed.

    :param worker: None for all.
    :param lines: of each log; 0 for all.
    """
    files = _files(directory, worker)
    logs = {path: read_regular(path).decode(errors="replace").splitlines() for path in files}
    if not logs:
        print_lines(console, [f"No log {_pattern(worker)} in {directory.logs}."])
    if worker is None:
        scripts = sorted(directory.jobs.glob("*/submitit/*_log.out"))
        logs |= {path: own for path in scripts if (own := own_lines(path))}
    for path, text in logs.items():
        print_lines(console, [f"── {path}", "\n".join(text[-lines:])])


def follow_logs(console: Console, directory: RunDirectory, worker: int | None, lines: int) -> None:
    """The workers' logs as they grow, until nobody works on the run any more.

    A line with the log's path stands before the lines of another log than the last one.

    :param worker: None for all.
    :param lines: of each log to begin with; 0 for all.
    """
    queue, plan, last = Queue(SLURM_S, enough=1), load_plan(directory), None
    # Bytes of each log that were shown.
    shown: dict[Path, int] = {}
    while True:
        # Asked before the logs are read: what is written last is shown.
        works = read_status(directory, plan, queue).state in ("running", "queued")
        for path in _files(directory, worker):
            text = _from(path, shown.get(path, 0))
            shown[path] = shown.get(path, 0) + len(text)
            new = text.decode(errors="replace").splitlines()[-lines:]
            if new:
                heading = [] if path == last else [f"── {path}"]
                print_lines(console, [*heading, *new])
                last = path
        if not works:
            return
        lines = 0
        time.sleep(POLL_S)


def _files(directory: RunDirectory, worker: int | None) -> list[Path]:
    return [path for path in sorted(directory.logs.glob(_pattern(worker))) if path.is_file()]


def _pattern(worker: int | None) -> str:
    return "*.log" if worker is None else f"*-worker-{worker:03d}.log"


def _from(path: Path, begin: int) -> bytes:
    """What a log has from a byte on, up to the end of its last whole line."""
    with path.open("rb") as file:
        file.seek(begin)
        text = file.read()
    return text[: text.rfind(b"\n") + 1]


def show_failures(console: Console, directory: RunDirectory) -> None:
    """All pictures that have failed so far, each with its reason."""
    shown = 0
    for row in _failures(directory):
        name = f" id {row['id']!r}" if row["id"] else ""
        picture = f"{row['key']} row {row['row']}{name}"
        where = f"on {row['host']}, worker {row['worker']}"
        reason = f"{picture}: {row['cause']}: {row['error']}"
        print_lines(console, [reason, f"    {row['prompt'][:200]!r} {where}"])
        shown += 1
    rows = "Rows are counted from 0, over all files of the manifest."
    print_lines(console, [rows if shown else "No picture has failed."])


def _failures(directory: RunDirectory) -> Iterator[dict[str, Any]]:
    """Records of failed pictures: the published ones, then those of shards in progress."""
    columns = ["key", "index", "row", "id", "cause", "error", "prompt", "host", "worker"]
    failed, superseded = [("outcome", "=", "failed")], Superseded(directory)
    for shard in sorted(published_shards(directory)):
        table = read_metadata(directory.metadata(shard), columns, failed)
        yield from superseded.without(shard, table).to_pylist()
    for record in unpublished_records(directory):
        if record.outcome == "failed":
            yield asdict(record) | {"key": key_text(record.key)}


def show_last_words(console: Console, directory: RunDirectory) -> None:
    """Why workers died, were given up or never came."""
    roster = take_roll(directory, load_plan(directory).run, Queue(enough=1))
    print_lines(console, last_words(directory, roster))
