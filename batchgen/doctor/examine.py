"""All checks of one machine, in the order in which a person would look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchgen import slurm
from batchgen.doctor import machine
from batchgen.doctor.devices import devices
from batchgen.doctor.finding import Finding
from batchgen.doctor.folders import compile_cache, free_space, run_folder
from batchgen.doctor.models import hub, model_files
from batchgen.doctor.needs import Needs
from batchgen.doctor.scheduler import scheduler
from batchgen.settings import Job


def examine(folder: Path, needs: Needs) -> Iterator[Finding]:
    """Examine this machine; each finding is yielded as soon as it is there.

    :param folder: of a run, or of runs. It need not exist.
    """
    name = slurm.node()
    for finding in _checks(folder, needs):
        yield finding.on(name)


def examine_submitter(folder: Path, job: Job | None) -> Iterator[Finding]:
    """Examine the machine that submits to a cluster. It fetches models, and makes no picture."""
    name = slurm.node()
    checks = [scheduler(needed=True), machine.versions(), run_folder(folder)]
    if job is None or job.engine.kind == "torch":
        checks.append(hub(job))
    for check in checks:
        for finding in check:
            yield finding.on(name)


def _checks(folder: Path, needs: Needs) -> Iterator[Finding]:
    yield from machine.versions()
    yield from machine.memory()
    yield from machine.open_files()
    yield from run_folder(folder)
    yield from free_space(folder)
    if not needs.rehearses:
        if needs.job:
            yield from model_files(needs.job)
        cards = yield from devices(needs)
        yield from compile_cache(needs.job, needed=needs.compiles(cuda=cards.count > 0))
    if needs.site is None:
        if not needs.rehearses:
            yield from hub(needs.job)
        yield from scheduler(needed=False)
