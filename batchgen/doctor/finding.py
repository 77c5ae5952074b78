"""What a check found."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

State = Literal["ok", "warning", "failed"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination. Its fields are the keys of `--json`."""

    # The check's name, which stays the same from version to version.
    name: str
    # The machine's.
    node: str
    # "failed": runs, or the job that was given, would fail for it.
    state: State
    found: str
    # What to type or to change; "" if nothing needs to be.
    remedy: str = ""

    def on(self, node: str) -> Finding:
        """The same, found on a node."""
        return replace(self, node=node)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def ok(name: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding(name, "", "ok", found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Something is not as it should be, and runs can do without it."""
    return Finding(name, "", "warning", found, remedy)


def failed(name: str, found: str, remedy: str) -> Finding:
    """Runs, or the job that was given, would fail for it."""
    return Finding(name, "", "failed", found, remedy)
