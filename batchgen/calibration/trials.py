"""The calibration's folder, and the settings that are tried: each is the job with another cache.

runs/calibrate-NAME/
  sample.parquet        the pictures that every setting makes
  recorded.parquet      the pictures from which schedules are found
  recorded/             the run of these without a cache
  searched-….parquet    some of them with every candidate; searched-….json: which
  searched-…/           the run of these
  uncached/             the run of the sample without a cache
  multistep-0.01/  …    one run for each setting that was tried
  multistep-0.01.json   how far its pictures are from the uncached ones
  calibration.json      everything that was found
  calibration.svg .png  the plot
  schedule.json         the schedules of the choice, if it has any
  job.toml              the job with the choice, to be submitted
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import durable
from batchgen.errors import JobError, OutputError
from batchgen.run import RunDirectory, refuse_place
from batchgen.settings import Audit, Cache, Job, ManifestSettings, Output, Shards
from batchgen.settings.section import parse

SAMPLE, UNCACHED = "sample.parquet", "uncached"
# Settings of each policy, from careful to bold.
TOLERANCES = (0.0125, 0.025, 0.05, 0.1, 0.2)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4)
# The key of each policy that says how bold it is.
_BOLDNESS = {
    "multistep": "tolerance",
    "first_block": "threshold",
    "teacache": "threshold",
    "adacache": "threshold",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """A cache setting, and the run of the sample that tries it."""

    name: str
    root: Path
    job: Job
    # The name of its manifest, which stands beside its root.
    manifest: str = SAMPLE

    @property
    def sample(self) -> Path:
        """The manifest of the run."""
        return self.root.parent / self.manifest


# A list a policy, from careful to bold. The first holds the run without a cache alone.
Grid = Sequence[Sequence[Trial]]


def begin(root: Path, sample: pa.Table) -> None:
    """Make the folder of a calibration, or continue in it.

    :raises OutputError: the folder is no place for one, or has one of another sample.
    """
    path = root / SAMPLE
    if RunDirectory(root).plan.exists():
        raise OutputError(f"{root}: is a run. Name another folder with --out.")
    refuse_place(root / UNCACHED)
    if not path.exists() and root.exists() and any(root.iterdir()):
        raise OutputError(
            f"{root}: not empty and not a calibration (no {SAMPLE}). Name a new or an empty folder "
            "with --out."
        )
    root.mkdir(parents=True, exist_ok=True)
    keep_table(root, path.stem, sample)


def keep_table(root: Path, name: str, table: pa.Table) -> None:
    """Write a manifest of a calibration, or check that the same was written.

    :param name: of the file, without its extension.
    :raises OutputError: another was written.
    """
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    written = durable.create(root / f"{name}.parquet", buffer.getvalue())
    if not written and not read_table(root, name).equals(table):
        raise OutputError(
            f"{root}: is a calibration of another sample: manifest, [sampling], --pictures or "
            "--seed were others. Name another folder with --out."
        )


def read_table(root: Path, name: str) -> pa.Table:
    """A manifest that `keep_table` wrote.

    :raises OutputError: it cannot be read.
    """
    path = root / f"{name}.parquet"
    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise OutputError(f"{path}: cannot be read: {error}") from None


def grid_of(
    root: Path, job: Job, tolerances: Sequence[float] | None, thresholds: Sequence[float] | None
) -> Grid:
    """The settings to try, but for those with schedules. The job's own is among them.

    Other keys of the job's `[cache]`, such as `warmup`, are kept for its policy.

    :param job: located.
    :param tolerances: of multistep. None, as for the thresholds too, asks for the usual ones.
    :param thresholds: of first_block.
    :raises JobError: the job's own cache repeats another run's steps, or a setting is impossible.
    """
    if job.cache.policy == "replay":
        raise JobError(
            'cache.policy = "replay" repeats the steps of other pictures, and no sample can be '
            "made with it. Leave [cache] out of the job file, or choose another policy."
        )
    if tolerances is None and thresholds is None:
        tolerances, thresholds = TOLERANCES, THRESHOLDS
    tried: dict[str, list[Cache]] = {
        "none": [Cache()],
        "multistep": [_setting(job, "multistep", value) for value in tolerances or ()],
        "first_block": [_setting(job, "first_block", value) for value in thresholds or ()],
    }
    if job.cache.policy != "none":
        tried.setdefault(_kind(job.cache), []).append(job.cache)
    grid = []
    for caches in filter(None, tried.values()):
        named = {_name(cache): cache for cache in sorted(caches, key=_boldness)}
        grid.append(
            [Trial(name, root / name, with_cache(job, cache)) for name, cache in named.items()]
        )
    return grid


def _setting(job: Job, policy: str, value: float) -> Cache:
    # What the job's multistep starts from takes the place of a tolerance.
    base = {} if _kind(job.cache) != policy else dict(job.cache)
    written = {name: base[name] for name in job.cache.model_fields_set if name in base}
    content = {**written, "policy": policy, _BOLDNESS[policy]: value}
    return parse(Cache, content, where=f"--{_BOLDNESS[policy]} {value:g}", error=JobError)


def _boldness(cache: Cache) -> float:
    return float(getattr(cache, _BOLDNESS.get(cache.policy, ""), 0.0))


def _kind(cache: Cache) -> str:
    """The policy, and whether it has schedules of classes."""
    return f"{cache.policy}+classes" if cache.classes else cache.policy


def _name(cache: Cache) -> str:
    if cache.policy not in _BOLDNESS or cache.classes:
        return UNCACHED if cache.policy == "none" else _kind(cache)
    return f"{cache.policy}-{_boldness(cache)!r}"


def with_cache(job: Job, cache: Cache) -> Job:
    """The job that makes the sample with a cache: without loss, and read as the sample's columns.

    Everything else that decides pixels stays. Nothing is audited: that would measure the same.
    """
    stated = job.output
    output = Output(format="png", license=stated.license, force_license=stated.force_license)
    sections = {"cache": cache, "output": output}
    usual = {"manifest": ManifestSettings(), "shards": Shards(), "audit": Audit()}
    return job.model_copy(update={**sections, **usual})
