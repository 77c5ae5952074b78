"""The splits of a dataset: which it has, and how many pictures each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from batchgen.errors import DamagedRun, InputError, shell_command
from batchgen.regular_file import read_regular
from batchgen.run import RunDirectory
from batchgen.settings import Splits, load_job

# Every picture, whatever its split.
ALL = "all"


def splits_of(root: Path) -> Splits:
    """The splits of a run, or of a published dataset without `.batchgen`.

    :raises DamagedRun: its statistics.json cannot be read.
    """
    directory = RunDirectory(root)
    if directory.job.exists():
        return load_job(directory.job).splits
    if (splits := published_splits(root)) is None:
        raise DamagedRun(f"{root / 'statistics.json'}: cannot be read. Download it again")
    return splits


def published_splits(root: Path) -> Splits | None:
    """The splits that statistics.json tells, as the card does; None if it is damaged."""
    path = root / "statistics.json"
    try:
        return Splits(**json.loads(read_regular(path)).get("splits", {}))
    except FileNotFoundError:
        return Splits()
    except (ValueError, TypeError, AttributeError):
        return None


def bounds_of(root: Path, split: str | None) -> tuple[float, float]:
    """Between which places the prompts of a split stand: from, and below.

    :param split: None where nothing is held out; "all" for every picture.
    :raises InputError: the dataset has no such split, or several and none was named.
    """
    bounds = splits_of(root).bounds()
    there = " or ".join(f'split="{name}"' for name in (*bounds, ALL))
    if split is None and len(bounds) > 1:
        raise InputError(f"{root}: has splits, so name one: {there}")
    if split is None or split == ALL:
        return 0.0, 1.0
    if split not in bounds:
        resume = shell_command("batchgen", "resume", root, "--set", "splits.validation=0.02")
        raise InputError(
            f'{root}: has no split="{split}"; it has {there}. Shares are set in [splits] of the '
            f"job file, and may be changed later: {resume}"
        )
    return bounds[split]


def inside(places: npt.NDArray[np.float64], bounds: tuple[float, float]) -> npt.NDArray[np.bool_]:
    """Which places are between the bounds of a split."""
    return (bounds[0] <= places) & (places < bounds[1])
