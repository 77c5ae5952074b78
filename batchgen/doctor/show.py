"""Findings for people, and as JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
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
        for findings in _findings(folder, job, site, status, limit_s):
            for finding in findings:
                counts[finding.state] += 1
                if as_json:
                    sys.stdout.write(json.dumps(finding.as_dict()) + "\n")
                    sys.stdout.flush()
            if not as_json:
                _show(console, findings, of_site=site is not None)
    if not as_json:
        console.print("\n" + ", ".join(f"{count} {state}" for state, count in counts.items()))
    return counts["failed"] == 0


def _findings(
    folder: Path, job: Job | None, site: Site | None, status: Status, limit_s: float
) -> Iterator[list[Finding]]:
    """Those of this machine one by one; those of a site by node."""
    if site is None:
        for finding in examine(folder, Needs(job)):
            yield [finding]
        return
    here = list(examine_submitter(folder, job))
    yield here
    if all(finding.name != "slurm" or finding.state == "ok" for finding in here):
        yield from examine_nodes(site, job, folder, status.update, limit_s=limit_s)


def _show(console: Console, findings: list[Finding], *, of_site: bool) -> None:
    """Lines of one machine. Of a site's nodes only what is not ok: hundreds may be examined."""
    node, passed = findings[0].node, 0
    if of_site:
        console.print(f"\n{node}", style="bold")
    for finding in findings:
        if of_site and finding.state == "ok" and node != slurm.node():
            passed += 1
            continue
        _line(console, finding.state, finding.name, finding.found)
        if finding.remedy:
            # No line breaks of ours: what stands here is to be copied.
            console.print(f"{'':{_STATE}}  → {finding.remedy}", soft_wrap=True)
    if passed:
        _line(console, "ok", counted(passed, "check"), "--json tells each")


def _line(console: Console, state: str, name: str, text: str) -> None:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(width=_STATE)
    table.add_column(width=_NAME)
    table.add_column()
    table.add_row(Text(state, style=_COLOURS[state]), name, text)
    console.print(table)
