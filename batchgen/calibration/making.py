"""The runs of the sample are made: one after another on this machine, all at once on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console

from batchgen.calibration.choice import Floor
from batchgen.calibration.compare import Measured, measure
from batchgen.calibration.schedules import Found
from batchgen.calibration.trials import Grid, Trial
from batchgen.dataset import finalize_run
from batchgen.errors import counted, shell_command
from batchgen.launch.start import start
from batchgen.model import Checkpoint
from batchgen.planning import Hardware, locate_trace, refuse_impossible
from batchgen.run import create, missing_folders, unless_started
from batchgen.settings import Site
from batchgen.view.show_status import show_software, show_status
from batchgen.view.status import EXIT_INCOMPLETE, Status, read_status
from batchgen.view.watch import watch


class Unmade(Exception):
    """A run of the sample is not complete yet, or has failed; why was printed."""

    def __init__(self, exit_code: int) -> None:
        """:param exit_code: of the command, as `status` has them."""
        super().__init__(exit_code)
        self.exit_code = exit_code


@dataclass(frozen=True)
class Maker:
    """Makes the sample with any setting."""

    # None for this machine.
    site: Site | None
    checkpoint: Checkpoint | None
    hardware: Hardware
    console: Console
    # What was typed.
    command: list[str]

    def make(self, trial: Trial) -> Status:
        """Make the sample with one setting, or continue; on this machine until it is made.

        :raises Unmade: it was stopped, as `status` says, or not one picture could be made.
        """
        job, checkpoint = trial.job, self.checkpoint
        if checkpoint and job.cache.trace:
            job, checkpoint = locate_trace(job, checkpoint)
        refuse_impossible(job, checkpoint, self.hardware)
        made, given = missing_folders(trial.root), [trial.sample]
        run, new = create(trial.root, given, job, checkpoint, hardware=self.hardware)
        with unless_started(run.directory, made if new else None):
            finalize_run(run)
            seen = read_status(run.directory, run.plan)
            if seen.state not in ("complete", "failed", "running", "queued"):
                pictures = counted(run.plan.pictures, "picture")
                _say(self.console, f"{trial.name}: {pictures} → {trial.root}")
                show_software(self.console, run.plan)
                _say(self.console, start(run, self.site, self.command))
                seen = read_status(run.directory, run.plan)
        if not (self.site or seen.finished):
            seen = watch(run, self.console)
        if seen.state == "failed" or not (self.site or seen.finished):
            show_status(self.console, seen)
            _say(self.console, "The same command again continues the calibration.")
            raise Unmade(seen.exit_code)
        return seen


def try_settings(
    grid: Grid,
    floor: Floor,
    make: Callable[[Trial], Status],
    console: Console,
    *,
    wait: bool,
    search: Callable[[Callable[[Trial], Status]], Found] = lambda _: Found(),
) -> tuple[Grid, list[list[Measured]]]:
    """Make the sample with the settings of a grid, and compare.

    :param wait: whether `make` returns when the sample is made. Then a family ends at the first
        setting that falls below the floor: bolder ones could not be chosen.
    :param search: finds further settings, of schedules.
    :return: the grid with these settings; and what was measured of each.
    :raises Unmade: runs are still to be waited for, or could not be made.
    """
    found = search(make)
    grid = [*grid, *found.families]
    if found.note:
        _say(console, found.note)
    if not wait:
        every = [trial for family in grid for trial in family]
        waiting = [trial.root for trial in every if not make(trial).finished]
        if waiting := [*([found.waiting.root] if found.waiting else []), *waiting]:
            runs = counted(len(waiting), "run")
            _say(console, f"{runs} to wait for. When they are complete, the same")
            _say(console, "command again compares them. The first:")
            _say(console, shell_command("batchgen", "status", waiting[0], "--watch"))
            raise Unmade(EXIT_INCOMPLETE)
    tried: list[list[Measured]] = []
    for family in grid:
        tried.append([])
        for trial in family:
            make(trial)
            tried[-1].append(measure(trial, grid[0][0]))
            if wait and not floor.passes(tried[-1][-1]):
                break
    return grid, tried


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)
