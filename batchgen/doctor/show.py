"""Findings for people, and as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from batchgen import slurm
from batchgen.doctor.examine import examine, examine_submitter
from batchgen.doctor.finding import Finding
from batchgen.doctor.needs import Needs
from batchgen.doctor.nodes import examine_nodes
from batchgen.errors import counted
from batchgen.settings import Job, Site

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red"}
# Columns of the state and of the check's name.
_STATE, _NAME = 7, 15


def consult(
    console: Console,
    folder: Path,
    job: Job | None,
    site: Site | None,
    *,
    as_json: bool,
    limit_s: float,
) -> bool:
    """Examine this machine or a site's nodes, and show each finding as soon as it is there.

    :param folder: of runs.
    :param limit_s: seconds to wait for nodes.
    :return: whether no check failed.
    """
    counts = dict.fromkeys(_COLOURS, 0)
    with console.status("looking …") as status:
        found = _findings(folder, job, site, status, limit_s)
        for node, group in groupby(found, key=lambda finding: finding.node):
            if site and not as_json:
                console.print(f"\n{node}", style="bold")
            passed = 0
            for finding in group:
                counts[finding.state] += 1
                if as_json:
                    sys.stdout.write(json.dumps(finding.as_dict()) + "\n")
                    sys.stdout.flush()
                elif site and finding.state == "ok" and node != slurm.node():
                    passed += 1  # a line for each check of each node would hide the others
                else:
                    _show(console, finding)
            if passed:
                _line(console, "ok", f"{counted(passed, 'check')}", "--json tells each")
    if not as_json:
        console.print("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return counts["failed"] == 0


def _findings(
    folder: Path, job: Job | None, site: Site | None, status: Status, limit_s: float
) -> Iterator[Finding]:
    if site is None:
        yield from examine(folder, Needs(job))
        return
    yield from examine_submitter(folder)
    yield from examine_nodes(site, job, folder, status.update, limit_s=limit_s)


def _show(console: Console, finding: Finding) -> None:
    _line(console, finding.state, finding.name, finding.found)
    if finding.remedy:
        # No line breaks of ours: what stands here is to be copied.
        console.print(f"{'':{_STATE}}  → {finding.remedy}", soft_wrap=True)


def _line(console: Console, state: str, name: str, text: str) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=_STATE)
    table.add_column(width=_NAME)
    table.add_column()
    table.add_row(Text(state, style=_COLOURS[state]), name, text)
    console.print(table)
