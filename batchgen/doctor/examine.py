"""All checks of one machine, in the order in which a person would look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchgen import slurm
from batchgen.doctor import machine
from batchgen.doctor.devices import devices
from batchgen.doctor.finding import Finding
from batchgen.doctor.folders import compile_cache, free_space, run_folder
from batchgen.doctor.hub import hub
from batchgen.doctor.needs import Needs
from batchgen.doctor.scheduler import scheduler


def examine(folder: Path, needs: Needs) -> Iterator[Finding]:
    """Examine this machine; each finding is yielded as soon as it is there.

    :param folder: of a run, or of runs. It need not exist.
    """
    name = slurm.node()
    for finding in _checks(folder, needs):
        yield finding.on(name)


def examine_submitter(folder: Path) -> Iterator[Finding]:
    """Examine the machine that submits to a cluster: it makes no pictures."""
    name = slurm.node()
    for checks in (scheduler(needed=True), machine.versions(), run_folder(folder)):
        for finding in checks:
            yield finding.on(name)


def _checks(folder: Path, needs: Needs) -> Iterator[Finding]:
    yield from machine.versions()
    yield from machine.memory()
    yield from machine.open_files()
    yield from run_folder(folder)
    yield from free_space(folder)
    if not needs.rehearses:
        cards = yield from devices(needs)
        yield from compile_cache(needs.job, needed=needs.compiles(cuda=cards.count > 0))
        yield from hub(needs.job)
    if needs.gpus is None:
        yield from scheduler(needed=False)
