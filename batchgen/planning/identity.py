"""batchgen.planning.identity."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from batchgen.errors import PlanChanged
from batchgen.planning.plan import Plan
from batchgen.settings import Job

PACKAGES = (
    "batchgen",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "pyarrow",
)  # those that can change a byte of the output


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Hash of everything that decides pictures, tar files and their names."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def identify_run(job: Job, manifest: Sequence[str], model: Mapping[str, str]) -> dict[str, Any]:
    """What the fingerprint covers: the job without operations, and the content (not the place) of manifest, weights and LoRAs."""
    settings = job.identity()
    del settings["model"]["path"], settings["model"]["revision"], settings["cache"]["trace"]
    settings["model"]["lora"] = [lora["scale"] for lora in settings["model"]["lora"]]
    return {**settings, "weights": dict(model), "manifest": list(manifest)}


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines `key: old → new` for everything that differs, nested keys joined by dots."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return lines


def refuse_change(plan: Plan, identity: Mapping[str, Any], where: str) -> None:
    """Check that a run is still what it was planned to be.

    :raises PlanChanged: it is not; the message lists every difference.
    """
    lines = difference(plan.identity, json.loads(json.dumps(identity)))
    if lines:
        raise PlanChanged(
            f"{where} was planned from other inputs, and a run never changes:\n  "
            + "\n  ".join(lines)
            + "\nPut the inputs back and resume, or start another run with --out ANOTHER_FOLDER."
        )


def software() -> dict[str, str]:
    """Versions of everything that can change a byte of the output."""
    return {"python": platform.python_version()} | {
        package: importlib.metadata.version(package) for package in PACKAGES
    }


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"
