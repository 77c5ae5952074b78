"""What verbs do before and after they print, for the command line and for Python alike.

Modules are imported when they are needed, so that `batchgen --help` answers at once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from batchgen import generations
from batchgen.errors import InputError, StillRunning, shell_command

if TYPE_CHECKING:
    from batchgen.model import Checkpoint
    from batchgen.planning import Hardware, Outlook, Plan
    from batchgen.run import Run
    from batchgen.settings import Job, Site
    from batchgen.view.status import Status


@dataclass(frozen=True, slots=True)
class Planned:
    """A run whose workers are yet to be started."""

    run: Run
    # Whether it was planned just now. Otherwise it was planned here before, from the same inputs.
    new: bool
    # The folders that were made for it, the innermost first.
    made: Sequence[Path]

    def unless_started(self) -> AbstractContextManager[None]:
        """Remove the run again if it is new and its first submission is refused inside."""
        from batchgen.run import unless_started

        return unless_started(self.run.directory, self.made if self.new else None)


def read_job(
    path: Path | None, overrides: Sequence[str], columns: Sequence[str], *, rehearse: bool
) -> Job:
    """A job file with what was overridden; see `settings.load_job`.

    :param rehearse: test cards in place of the model.
    """
    from batchgen.settings import load_job

    return load_job(path, [*overrides, *(["engine.kind=pattern"] if rehearse else [])], columns)


def default_root(manifest: str, *, rehearse: bool) -> Path:
    """`runs/NAME`: the manifest's name without extension and wildcards, or else its folder's."""
    return Path("runs") / (_stem(manifest) + ("-rehearsal" if rehearse else ""))


def _stem(manifest: str) -> str:
    # `..` is resolved, and a symlink keeps its name.
    path = Path(os.path.abspath(manifest))  # noqa: PTH100
    if path.is_dir():
        return path.name or "run"
    stem = Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem
    return re.sub(r"[*?\[\]]", "", stem).strip("-_.") or path.parent.name or "run"


def refuse_devices(site: Site | None, job: Job) -> None:
    """Refuse what this machine or the site cannot be asked for, before the model is located.

    Locating the model reads from every weight file: what costs less to tell is told before.

    :raises BatchgenError: the devices cannot be had.
    """
    from batchgen.launch.elements import refuse_misfit
    from batchgen.planning import visible_devices

    if site:
        refuse_misfit(site, job)
    else:
        visible_devices(job)


def planned_devices(site: Site | None, job: Job, *, measure: bool) -> Hardware:
    """The devices that a plan is judged by: this machine's for sure if it makes pictures too.

    :param measure: a few groups are made, to measure the pace.
    :raises BatchgenError: the devices cannot be had, or this machine cannot measure the pace.
    """
    from batchgen.planning import assumed, of_site, this_machine

    if measure:
        from batchgen.calibration import refuse_measuring

        refuse_measuring(job, site)
        refuse_devices(None, job)
        return this_machine(job)
    return of_site(site, job) if site else assumed(job)


def locate(site: Site | None, job: Job) -> tuple[Job, Checkpoint | None, Hardware]:
    """The job with its files found, its model, and the devices, which can do what it asks.

    :raises BatchgenError: a file is missing or unfit, or the devices cannot do it.
    """
    from batchgen.planning import locate_model, refuse_impossible

    hardware = devices_of(site, job)
    located, checkpoint = locate_model(job)
    refuse_impossible(located, checkpoint, hardware)
    return located, checkpoint, hardware


def outlook_of(plan: Plan, site: Site | None, job: Job, hardware: Hardware) -> Outlook:
    """How long a plan takes with the devices of this machine or of the site, and what it costs."""
    from batchgen.launch.elements import count_elements, max_running
    from batchgen.planning import look_ahead, worker_count

    ranks, shards = job.parallel.degree, plan.last_shards
    if site:
        elements = count_elements(site, ranks, shards)
        workers = min(elements, max_running(site, ranks, elements)) * site.workers(ranks)
        kind = "cuda " if site.gpus_per_node and job.engine.device != "cpu" else "cpu "
        return look_ahead(plan, kind, min(workers, shards) * ranks, site.price_per_gpu_hour)
    if hardware.cuda is None:  # it may be meant for another machine
        return look_ahead(plan, "", 1, None)
    workers = worker_count(job, hardware.devices or (), shards)
    return look_ahead(plan, "cuda " if hardware.cuda else "cpu ", workers * ranks, None)


def plan_run(
    manifest: Sequence[str],
    site: Site | None,
    job: Job,
    root: Path,
    *,
    limit: int | None = None,
    sample: int | None = None,
) -> Planned:
    """Plan a manifest into a folder, or open the run that was planned there from the same inputs.

    :param limit: plan only so many pictures, the first ones: a trial. When it is complete, the same
        without a limit plans the rest.
    :param sample: likewise, so many from all over the manifest.
    :raises BatchgenError: the devices, the folder, the model or the manifest cannot be used.
    """
    from batchgen.run import create, missing_folders, refuse_place

    if limit is not None and sample is not None:
        raise InputError("a trial has a limit or a sample: give one of them")
    refuse_devices(site, job)
    refuse_place(root)
    located, checkpoint, hardware = locate(site, job)
    made = missing_folders(root)
    run, new = create(
        root, manifest, located, checkpoint, hardware=hardware, limit=limit, sample=sample
    )
    if not new and limit is None and sample is None and run.plan.left:
        run = generations.plan_rest(run, hardware)
    return Planned(run, new, made)


def reopen(
    root: Path,
    overrides: Sequence[str],
    manifest: Sequence[str],
    site: Site | None,
    *,
    local: bool,
    add: int | None,
    further: bool = False,
) -> tuple[Run, Site | None]:
    """An existing run, checked against its inputs and devices, and where it goes on.

    :param overrides: `section.key=value`.
    :param manifest: where it is now, if it was moved.
    :param site: where to go on; None for where the run was last.
    :param local: on this machine, wherever it was.
    :param add: how many workers or nodes are to be brought.
    :param further: whether pictures are to be planned further.
    :raises BatchgenError: it cannot go on there.
    """
    from batchgen.planning import refuse_impossible, refuse_unfit
    from batchgen.run import open_run, read_submissions

    if local and site:
        raise InputError("--local goes on here, and --site on a cluster: name one of them")
    if add and any(word.partition("=")[0].strip() == "run.workers" for word in overrides):
        raise InputError("--add and run.workers both say how many workers start: give one of them")
    run = open_run(root, overrides, manifest)
    last = read_submissions(run.directory)[-1:]
    if last and not local:
        site = site or last[0].site
    if further or not run.directory.complete():
        hardware = devices_of(site, run.job)
        refuse_impossible(run.job, run.checkpoint, hardware)
        refuse_unfit(run.job, run.checkpoint, run.plan, hardware)
    return run, site


def what_is_left(run: Run, add: int | None) -> Status:
    """The run's status, before workers are brought to it. What can be completed is completed.

    :param add: how many workers are to join those that work on it.
    :raises StillRunning: somebody works on it, and nobody is to join them.
    """
    from batchgen.dataset import finalize_run
    from batchgen.view.status import read_status

    finalize_run(run)
    root, seen = run.directory.root, read_status(run.directory, run.plan)
    if seen.state in ("running", "queued") and not add:
        look = shell_command("batchgen", "status", root, "--watch")
        more = shell_command("batchgen", "resume", root, "--add", 1)
        raise StillRunning(
            f"{root} is {seen.state} ({seen.cause}). Watch it with: {look}; bring more workers "
            f"with: {more}"
        )
    return seen


def devices_of(site: Site | None, job: Job) -> Hardware:
    """The devices that will work: of the site's nodes, or of this machine."""
    from batchgen.planning import of_site, this_machine

    return of_site(site, job) if site else this_machine(job)
