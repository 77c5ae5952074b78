"""What `batchgen calibrate` prints at its end."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from batchgen.calibration.report import LEGEND, REHEARSED, Report, hardest_class, table_lines
from batchgen.errors import shell_command


def show_calibration(console: Console, report: Report, job: Path) -> None:
    """The table, the recommendation, and the command to type next.

    :param job: the job file that was written.
    """
    chosen, plain = report.choice.chosen, report.plain
    lines = [*table_lines(report), LEGEND, ""]
    lines += [f"recommended  {chosen.name}: {report.choice.reason}"]
    if chosen is not plain:
        lines.append(f"it kept      {report.rule}; {hardest_class(report)}")
        lines.append("Different models, jobs and manifests need a calibration of their own.")
    if report.job.engine.kind == "pattern":
        lines.append(REHEARSED)
    lines.append(f"plot         {job.parent}/calibration.svg, calibration.png")
    lines.append(f"job file     {job}, with the choice and the evidence")
    submit = shell_command("batchgen", "submit", *report.manifest, "--job", job)
    lines.append(f"next: {submit}")
    for line in lines:
        console.print(line, soft_wrap=True)
