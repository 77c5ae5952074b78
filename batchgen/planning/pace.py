"""How fast earlier runs were, kept in the cache folder, so that a plan can tell how long it takes.

A run that is complete leaves its *pace*: the device-seconds that its pictures took, as a multiple
of what the estimate had said (`estimate.py`). It counts for runs of the same model and of the same
settings that decide speed, at any size and number of steps. What is computed never depends on it,
nor does the cut into shards.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batchgen import durable

FOLDER = Path("~/.cache/batchgen/pace")
# Sections of a run's identity that decide how fast pictures are made.
_DECIDING = ("weights", "engine", "precision", "cache", "parallel", "compile")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast one run was."""

    # Device-seconds that it took, for each that was estimated.
    factor: float
    # The pictures that it made.
    pictures: int
    # The kind of device and its numerics.
    device: str
    run: str


def remember(identity: Mapping[str, Any], pace: Pace) -> None:
    """Keep a pace, in the place of an older one on the same device.

    Where it cannot be written, plans go by the estimate.

    :param identity: of the run's plan.
    """
    path = _folder(identity) / f"{_hash(pace.device)}.json"
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.replace(path, json.dumps(asdict(pace)).encode())


def recall(identity: Mapping[str, Any], device: str) -> Pace | None:
    """The latest pace of such a run.

    :param device: what the name of its device begins with; "" for any.
    """
    try:
        files = sorted(_folder(identity).glob("*.json"), key=lambda path: path.stat().st_mtime)
    except OSError:
        return None
    known = (pace for path in reversed(files) if (pace := _read(path)))
    return next((pace for pace in known if pace.device.startswith(device)), None)


def _read(path: Path) -> Pace | None:
    """The pace in a file; None if it holds none."""
    try:
        pace = Pace(**json.loads(path.read_text()))
        sound = math.isfinite(pace.factor) and pace.factor > 0 and isinstance(pace.device, str)
    except (OSError, ValueError, TypeError):
        return None
    return pace if sound else None


def _folder(identity: Mapping[str, Any]) -> Path:
    deciding = {section: identity.get(section) for section in _DECIDING}
    return FOLDER.expanduser() / _hash(json.dumps(deciding, sort_keys=True))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
