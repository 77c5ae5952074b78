"""What identifies a run, and may therefore never change: settings and the content of all inputs.

Plans on disks hold the identity and its hash. Another order of keys or another spelling of a number
would refuse every run there is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from batchgen.errors import PlanChanged
from batchgen.manifest import deciding
from batchgen.planning.plan import Plan
from batchgen.settings import Job, Section

# The packages that can change a byte of the output.
PACKAGES = ("batchgen", "torch", "diffusers", "transformers", "numpy", "pillow", "pyarrow")

# What a policy makes its pictures by, where that was something else once: a key and a value of a
# run's identity, so that no older run goes on with other pictures, and what was else.
_RESIDUAL = (
    "made skipped steps from what their blocks would have added, and they are made from the "
    "velocities of computed steps now"
)
_RELATIVE = "chose its steps by relative errors, and they are chosen by absolute ones now"
_MADE_BY = {
    **dict.fromkeys(
        ("first_block", "teacache", "adacache", "schedule", "replay"),
        ("extrapolates", "velocity", _RESIDUAL),
    ),
    "multistep": ("errors", "absolute", _RELATIVE),
}

# What batchgen 0.2 and older did where it is not what a key says by default.
_BEFORE: Mapping[str, Mapping[str, Any]] = {"output": {"xmp": False}}

# Said where a rehearsal meets a real run, or (True) the other way round.
_REHEARSALS = {
    False: "is a real run, and a rehearsal draws test cards: it has no place there. Leave --out "
    "away, and the rehearsal gets a folder of its own; or name another with --out.",
    True: "is a rehearsal: its pictures are test cards. Make the real ones elsewhere: leave --out "
    "away, or name another folder with --out.",
}


def identify_run(job: Job, manifest: Sequence[str], model: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides pictures, tar files and their names; content counts, not places.

    :param job: settings; `[run]`, `[audit]`, `[splits]` and `[pattern]` do not count.
    :param manifest: SHA-256 of each manifest file.
    :param model: file → digest, of weights, LoRAs and traces.
    """
    settings = job.identity()
    del settings["model"]["path"], settings["model"]["revision"], settings["cache"]["trace"]
    del settings["cache"]["schedule"]  # its content stands in `classes`
    if columns := deciding(job.manifest.columns):
        settings["columns"] = columns
    settings["cache"] |= _made_by(settings["cache"])
    settings["model"]["lora"] = [lora["scale"] for lora in settings["model"]["lora"]]
    return {**settings, "weights": dict(model), "manifest": list(manifest)}


def fingerprint(identity: Mapping[str, Any]) -> str:
    """The hash of an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def refuse_change(
    plan: Plan, identity: Mapping[str, Any], where: str, *, finished: bool = False
) -> None:
    """Check that a run is still what it was planned to be.

    :param where: the run, for the message.
    :param finished: all its pictures are made, so how they were made may have changed since.
    :raises PlanChanged: it is not; the message lists every difference.
    """
    given = json.loads(json.dumps(identity))
    kinds = plan.identity["engine"]["kind"], given["engine"]["kind"]
    if kinds[0] != kinds[1]:
        raise PlanChanged(f"{where} {_REHEARSALS[kinds[0] == 'pattern']}")
    planned = _with_later_keys(plan, given)
    made_by = _made_by(planned["cache"])
    if not made_by.keys() <= planned["cache"].keys():
        if not finished:
            raise PlanChanged(_other_pictures(plan, where))
        planned["cache"] = {**planned["cache"], **made_by}
    if lines := difference(planned, given):
        listed = "\n  ".join(lines)
        raise PlanChanged(
            f"{where} was planned from other inputs, and a run never changes:\n  {listed}\n"
            "Put the inputs back and resume, or start another run with --out ANOTHER_FOLDER."
        )


def _made_by(cache: Mapping[str, Any]) -> dict[str, str]:
    """What the identity holds beside the settings, since their pictures were others once."""
    key, value, _ = _MADE_BY.get(cache.get("policy", ""), ("", "", ""))
    return {key: value} if key else {}


def _other_pictures(plan: Plan, where: str) -> str:
    policy, version = plan.identity["cache"]["policy"], plan.software.get("batchgen", "0.1.0")
    return (
        f'{where} was begun by batchgen {version}, whose cache.policy = "{policy}" '
        f"{_MADE_BY[policy][2]}: the pictures to come would be others than those that are there. "
        f"Finish it with batchgen {version}, or start another run with --out ANOTHER_FOLDER."
    )


def as_before(job: Job, plan: Plan) -> Job:
    """The job of a run, in which keys that nobody wrote say what its batchgen did without them."""
    if not plan.is_older:
        return job
    changed = {
        name: getattr(job, name).model_copy(update=_unwritten(getattr(job, name), values))
        for name, values in _BEFORE.items()
    }
    return job.model_copy(update=changed)


def _unwritten(section: Section, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in section.model_fields_set}


def _with_later_keys(plan: Plan, given: Mapping[str, Any]) -> dict[str, Any]:
    """A planned identity with the keys that batchgen got later, at their defaults.

    The default of a key is what batchgen did before it had the key, but for `_BEFORE`.
    """
    planned, defaults = plan.identity, Job().identity()
    if plan.is_older:
        defaults |= {name: defaults[name] | values for name, values in _BEFORE.items()}
    later = {
        section: {key: defaults[section][key] for key in keys if key in defaults[section]}
        for section, keys in given.items()
        if section in defaults
    }
    return {**planned, **{name: keys | planned.get(name, {}) for name, keys in later.items()}}


def difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """A line `key: old → new` for every difference, nested keys joined by dots."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += difference(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {_short(before)} → {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def software() -> dict[str, str]:
    """Versions of everything that can change a byte of the output."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


@cache
def _version(package: str) -> str:
    return importlib.metadata.version(package)  # reads a file of some thousand lines
