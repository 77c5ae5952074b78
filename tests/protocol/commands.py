"""What a person types to go on with a complete run, and what the person sees of a run.

Both are done inside of a watched process, by the functions that the command line calls.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from batchgen import generations
from batchgen.dataset import verify_run
from batchgen.planning import UNKNOWN
from batchgen.run import Run, RunDirectory, open_run
from batchgen.view.show_status import show_runs
from batchgen.view.status import read_status


def give(root: Path, command: Sequence[str]) -> Run:
    """Plan what a command asks for; the run as it is then.

    :param command: its words: `retry`; `rest`; `extend` and files; `remake` and keys; or none, for
        a plain `resume`.
    :raises BatchgenError: it is refused.
    """
    run = open_run(root)
    match list(command):
        case []:
            return run
        case ["retry"]:
            return generations.retry_failed(run)[0]
        case ["rest"]:
            return generations.plan_rest(run, UNKNOWN)
        case ["extend", *files]:
            return generations.extend(run, files, UNKNOWN)[0]
        case ["remake", *keys]:
            return generations.remake(run, keys)[0]
    raise ValueError(command)


def look(root: Path) -> dict[str, Any]:
    """What `status --json` says, and the run's line of `list`."""
    status = json.loads(read_status(RunDirectory.open(root)).to_json())
    console = Console(file=io.StringIO(), width=1000)
    show_runs(console, root.parent)
    assert isinstance(console.file, io.StringIO)
    return {"status": status, "listed": console.file.getvalue().splitlines()[-1].split()[1:5]}


def problems(root: Path) -> list[str]:
    """What `verify --deep` finds."""
    found = verify_run(open_run(root), deep=True, manifest=True)
    return [problem for finding in found for problem in finding.problems]
