"""Runs from Python, by the command line's own path.

    import batchgen

    run = batchgen.submit("prompts.parquet", "flux-dev")
    run.wait()
    run.status().ok
    run.records(["key", "tar", "prompt", "device_s"]).to_pandas()
    run.dataset(decode="torchrgb").to_tuple("jpg", "txt").batched(16)

`submit` and `resume` return when workers are started. These go on when Python ends. What the
command line refuses raises a `BatchgenError` with the same message.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path

import tomli_w

from batchgen import generations
from batchgen.errors import InputError
from batchgen.launch.start import start
from batchgen.operations import default_root, devices_of, plan_run, read_job, reopen, what_is_left
from batchgen.run import Run
from batchgen.run_handle import AnyPath, RunHandle
from batchgen.settings import Site, load_site


def submit(
    manifest: AnyPath | Sequence[AnyPath],
    job: AnyPath | None = None,
    *,
    site: AnyPath | None = None,
    out: AnyPath | None = None,
    settings: Mapping[str, object] | None = None,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    sample: int | None = None,
    rehearse: bool = False,
) -> RunHandle:
    """Plan a manifest and start workers that make its pictures, here or on a cluster.

    The same call again continues where the run stopped. A run that is complete stays as it is.

    :param manifest: Parquet, CSV, TSV, JSON lines, text or Arrow: files, globs, folders or URLs.
    :param job: a TOML job file, or the name of a ready one; None for the embedded tiny model.
    :param site: a SLURM site profile; None for this machine.
    :param out: the run directory; None for `runs/NAME` of the manifest.
    :param settings: keys of the job file to override, as `{"sampling.steps": 20}`.
    :param columns: columns of the manifest with other names, as `{"prompt": "caption"}`.
    :param limit: a trial: only so many pictures, the first ones. When it is complete, the same call
        without a limit makes the rest.
    :param sample: likewise, so many from all over the manifest.
    :param rehearse: draw test cards, without a model.
    :raises BatchgenError: what the command line refuses, with its message.
    """
    paths = _paths(manifest)
    profile = load_site(Path(site)) if site else None
    renamed = [f"{ours}={theirs}" for ours, theirs in (columns or {}).items()]
    asked = read_job(Path(job) if job else None, _overrides(settings), renamed, rehearse=rehearse)
    root = Path(out) if out else default_root(paths[0], rehearse=rehearse)
    if least := [number for number in (limit, sample) if number is not None and number < 1]:
        raise InputError(f"a trial of {least[0]} pictures: expected at least one")
    planned = plan_run(paths, profile, asked, root.expanduser(), limit=limit, sample=sample)
    with planned.unless_started():
        return _go(planned.run, profile)


def resume(
    run: AnyPath | RunHandle,
    *,
    settings: Mapping[str, object] | None = None,
    site: AnyPath | None = None,
    local: bool = False,
    manifest: AnyPath | Sequence[AnyPath] | None = None,
    add: int | None = None,
    steal: bool = False,
    retry_failed: bool = False,
    rest: bool = False,
) -> RunHandle:
    """Start workers for what is missing of a run that was stopped, killed or ran out of space.

    :param settings: keys of `[run]`, `[audit]`, `[splits]` and `[pattern]` to change.
    :param site: a SLURM site profile; None for where the run was last.
    :param local: go on here, although the run was on a cluster.
    :param manifest: where the manifest is now, if it was moved.
    :param add: bring so many workers, on a cluster nodes, also to a run that others work on.
    :param steal: take shards of workers elsewhere, which you know are dead.
    :param rest: go on with what a trial has left.
    :param retry_failed: when all pictures were tried, try those again that have failed.
    :raises BatchgenError: what the command line refuses, with its message.
    """
    root = run.root if isinstance(run, RunHandle) else Path(run)
    profile = load_site(Path(site)) if site else None
    moved = _paths(manifest) if manifest else []
    if retry_failed and rest:
        raise InputError("retry_failed and rest: give one, and the other when it is done")
    further = retry_failed or rest
    opened, profile = reopen(
        root, _overrides(settings), moved, profile, local=local, add=add, further=further
    )
    if retry_failed:
        opened, _ = generations.retry_failed(opened)
    if rest:
        opened = generations.plan_rest(opened, devices_of(profile, opened.job))
    return _go(opened, profile, add=add, steal=steal)


def extend(
    run: AnyPath | RunHandle,
    more: AnyPath | Sequence[AnyPath],
    *,
    site: AnyPath | None = None,
    local: bool = False,
) -> RunHandle:
    """Append rows to the manifest of a complete run, and start workers that make their pictures.

    :param more: tables with more rows: files, globs or folders. Columns must be those of the run.
    :param site: a SLURM site profile; None for where the run was last.
    :param local: go on here, although the run was on a cluster.
    :raises BatchgenError: what the command line refuses, with its message.
    """
    opened, profile = _complete(run, site, local=local)
    opened, _ = generations.extend(opened, _paths(more), devices_of(profile, opened.job))
    return _go(opened, profile)


def remake(
    run: AnyPath | RunHandle,
    keys: Sequence[str],
    *,
    same_seeds: bool = False,
    site: AnyPath | None = None,
    local: bool = False,
) -> RunHandle:
    """Start workers that make pictures of a complete run once more. The later ones count.

    :param keys: of the pictures, as `"000000020"`.
    :param same_seeds: keep their seeds; else each gets another.
    :param site: a SLURM site profile; None for where the run was last.
    :param local: go on here, although the run was on a cluster.
    :raises BatchgenError: what the command line refuses, with its message.
    """
    opened, profile = _complete(run, site, local=local)
    opened, _ = generations.remake(opened, keys, same_seeds=same_seeds)
    return _go(opened, profile)


def _complete(
    run: AnyPath | RunHandle, site: AnyPath | None, *, local: bool
) -> tuple[Run, Site | None]:
    """A run that is to make further pictures, and where it goes on."""
    root = run.root if isinstance(run, RunHandle) else Path(run)
    profile = load_site(Path(site)) if site else None
    return reopen(root, [], [], profile, local=local, add=None, further=True)


def _go(run: Run, site: Site | None, *, add: int | None = None, steal: bool = False) -> RunHandle:
    if not what_is_left(run, add).finished:
        start(run, site, sys.argv, add=add, steal=steal)
    return RunHandle(run.directory.root)


def _paths(given: AnyPath | Sequence[AnyPath]) -> list[str]:
    paths = [given] if isinstance(given, str | PathLike) else given
    if not paths:
        raise InputError("the manifest is an empty list; expected at least one file or folder")
    return [fspath(path) for path in paths]


def _overrides(settings: Mapping[str, object] | None) -> list[str]:
    """`section.key=value`, the value in TOML."""
    try:
        return [
            f"{key}={tomli_w.dumps({'value': value}).partition(' = ')[2].strip()}"
            for key, value in (settings or {}).items()
        ]
    except TypeError as error:
        raise InputError(f"settings = {settings!r}: {error}; expected values of TOML") from None
