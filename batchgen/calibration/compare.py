"""What one setting did to the sample: how far its pictures are, which steps it computed, how long.

Pictures are compared by key with those of the run without a cache. The comparison is kept beside
the run, because at full size it takes minutes: whoever kills it compares the rest.
"""

from __future__ import annotations

import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from batchgen import durable
from batchgen.calibration.trials import Trial
from batchgen.checked_json import parse, seal, unseal
from batchgen.dataset.open_picture import open_picture
from batchgen.errors import DamagedRun, PlanChanged, shell_command
from batchgen.fidelity import EQUAL_DB, Pixels, psnr, ssim
from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory, inspect_run
from batchgen.shard import published_shards, read_metadata, remake

_RECORD = ("index", "outcome", "steps", "skipped", "device_s", "group_size")
_SHAPE = ("width", "height", "steps", "negative_prompt")
# Pictures that are compared at a time: each takes about 360 MB at 2048×2048.
THREADS = 8
COMPUTED = "0"  # in a record's `skipped`


@dataclass(frozen=True, slots=True)
class Likeness:
    """How far a picture is from the uncached one."""

    key: int
    # dB; 99 for equal pictures, 0 where the setting failed to make the picture.
    psnr_db: float
    # 1 for equal pictures, 0 where the setting failed to make the picture.
    ssim: float


@dataclass(frozen=True, slots=True)
class Measured:
    """One setting on the sample."""

    name: str
    # The ids of its run and of the uncached one.
    run: str
    against: str
    # One for each picture that was made without a cache, by key.
    pictures: tuple[Likeness, ...]
    # Steps of a picture, and how many of them were computed; means over the good pictures.
    steps: float
    computed: float
    # Device-seconds of a picture: text, denoising and decoding, its share of its group's; mean.
    device_s: float
    # The standard error of `device_s` as a share of it, from groups of equal work.
    noise: float

    @property
    def psnr_db(self) -> tuple[float, float]:
        """Mean and worst, dB."""
        values = [one.psnr_db for one in self.pictures]
        return float(np.mean(values)), min(values)

    @property
    def ssim(self) -> tuple[float, float]:
        """Mean and worst."""
        values = [one.ssim for one in self.pictures]
        return float(np.mean(values)), min(values)

    @property
    def pictures_per_device_hour(self) -> float:
        """At the sample's sizes and groups."""
        return 3600 / self.device_s if self.device_s else 0.0


def measure(trial: Trial, plain: Trial) -> Measured:
    """Compare a complete run of the sample with the uncached one, or read what was compared.

    :raises PlanChanged: the runs were made on different kinds of device, so that the cache is not
        their only difference.
    :raises DamagedRun: a published file is gone or damaged.
    """
    run, against = inspect_run(trial.root), inspect_run(plain.root)
    kept = trial.root.with_name(f"{trial.name}.json")
    ids = run.plan.run, against.plan.run
    if (known := _read(kept)) and (known.run, known.against) == ids:
        return known
    _refuse_other_device(run.directory, against.directory)
    records = [one for one in _records(run.directory) if one["outcome"] == "ok"]
    measured = Measured(
        trial.name,
        *ids,
        tuple(_likenesses(run.directory, against.directory)),
        steps=_mean([one["steps"] for one in records]),
        computed=_mean([_computed(one) for one in records]),
        device_s=_mean([one["device_s"] for one in records]) * run.job.parallel.degree,
        noise=_noise(records),
    )
    durable.replace(kept, seal(asdict(measured)))
    return measured


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0


def _read(path: Path) -> Measured | None:
    try:
        return parse(Measured, unseal(read_regular(path)))
    except (FileNotFoundError, ValueError):  # it can be compared again
        return None


def _refuse_other_device(run: RunDirectory, against: RunDirectory) -> None:
    made, plain = (read_regular(one.identity).decode(errors="replace") for one in (run, against))
    if made != plain:
        away = shell_command("mv", run.root, "ANOTHER_FOLDER")
        raise PlanChanged(
            f"{run.root} was made on {made[:200]!r}, and {against.root} on {plain[:200]!r}: their "
            f"pictures differ without any cache. To make it again on the same kind of device: "
            f"{away}, then type the command again"
        )


def _records(directory: RunDirectory) -> list[dict[str, Any]]:
    columns = list(dict.fromkeys((*_RECORD, *_SHAPE)))
    rows: list[dict[str, Any]] = []
    for shard in sorted(published_shards(directory)):
        rows += read_metadata(directory.metadata(shard), columns).to_pylist()
    return rows


def _computed(record: dict[str, Any]) -> int:
    """Steps whose blocks were computed; without a cache there is no list of steps."""
    skipped = record["skipped"]
    return skipped.count(COMPUTED) if skipped else int(record["steps"])


def _noise(records: list[dict[str, Any]]) -> float:
    """How uncertain the mean time of a picture is: groups of one shape and size should take alike.

    Where no two groups are alike there is no telling, and the noise is 0.
    """
    groups: dict[tuple[Any, ...], set[float]] = defaultdict(set)
    for one in records:
        shape = *(one[name] for name in _SHAPE[:3]), bool(one["negative_prompt"])
        groups[*shape, one["group_size"]].add(one["device_s"])  # one value a group
    alike = [np.array(sorted(times)) for times in groups.values() if len(times) > 1]
    if not alike:
        return 0.0
    errors = np.concatenate([times / times.mean() - 1 for times in alike])
    freedom = len(errors) - len(alike)
    return float(np.sqrt(np.sum(errors**2) / freedom / len(errors)))


def _likenesses(run: RunDirectory, against: RunDirectory) -> Iterator[Likeness]:
    made, plain = dict(image_files(run)), dict(image_files(against))
    keys = sorted(plain)
    with ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0)))) as pool:
        yield from pool.map(lambda key: _likeness(key, made.get(key), plain[key]), keys)


def _likeness(key: int, made: bytes | None, plain: bytes) -> Likeness:
    if made is None:
        return Likeness(key, 0.0, 0.0)
    if made == plain:
        return Likeness(key, EQUAL_DB, 1.0)
    one, other = pixels_of(made), pixels_of(plain)
    return Likeness(key, psnr(one, other), ssim(one, other))


def pixels_of(data: bytes) -> Pixels:
    """Of an image file, [H, W, 3]."""
    with open_picture(data) as picture:
        return np.asarray(picture.convert("RGB"))


def image_files(directory: RunDirectory) -> Iterator[tuple[int, bytes]]:
    """Key and file of every picture of a run."""
    for path in sorted((directory.root / "data").glob("*.tar")):
        try:
            with tarfile.open(path) as tar:
                for member in tar:
                    key, _, kind = member.name.partition(".")
                    if kind == "png" and (stream := tar.extractfile(member)):
                        yield int(key), stream.read()
        except (tarfile.TarError, OSError) as error:
            remedy = remake(directory, deep=True)
            raise DamagedRun(f"{path}: cannot be read: {error}. {remedy}") from None
