"""What `verify` finds and puts aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from batchgen.dataset import Finding
from batchgen.errors import counted, shell_command
from batchgen.run import Run
from batchgen.view.console import print_lines

# Problems of a shard that are shown.
MANY = 20


def show_findings(console: Console, run: Run, findings: Iterable[Finding], trouble: str) -> bool:
    """Print what `verify` finds.

    :param trouble: why the run was not compared with its manifest; "" if it was.
    :return: whether run and shards are sound.
    """
    checked = bad = wrong = 0
    for finding in findings:
        of_shard = finding.shard is not None
        checked, bad = checked + of_shard, bad + (of_shard and bool(finding.problems))
        wrong += len(finding.problems)
        where = f"shard {finding.shard:06d}: " if finding.shard is not None else ""
        print_lines(console, (f"{where}{problem}" for problem in finding.problems[:MANY]))
    sound = counted(checked - bad, "shard is", "shards are")
    others = (
        counted(count, "is not", "are not") for count in (bad, len(run.plan.shards) - checked)
    )
    if trouble:
        print_lines(
            console, [f"Not compared with the manifest, but with the plan alone: {trouble}"]
        )
    print_lines(console, [f"{sound} sound, {', '.join(others)} done yet"])
    if checked == len(run.plan.shards) and not run.directory.complete():
        resume = shell_command("batchgen", "resume", run.directory.root)
        print_lines(console, [f"{run.directory.index} is missing. To complete the run: {resume}"])
    return wrong == 0


def show_repair(console: Console, run: Run, aside: Path, shards: Sequence[int]) -> None:
    """What was put aside, and what to type next."""
    opened = f"{counted(len(shards), 'shard was', 'shards were')} opened again. " if shards else ""
    resume = shell_command("batchgen", "resume", run.directory.root)
    print_lines(
        console,
        [
            f"{opened}What was replaced is in {aside}; nothing was deleted.",
            f"To make what is missing: {resume}",
        ],
    )
