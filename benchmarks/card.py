"""What a number was measured on: card, driver, clocks, versions, commit. No torch."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).parents[1]
# Distribution → module. What a row needs, or is compared with.
_PACKAGES = {
    "torch": "torch",
    "triton": "triton",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "torchao": "torchao",
    "cache-dit": "cache_dit",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pytest": "pytest",
}
_FIELDS = ("name", "driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit")


def read_facts(commit: str) -> dict[str, Any]:
    """Everything that is known without touching the card.

    :param commit: as the caller says; "" asks git.
    """
    found = {name: _version(name) for name, module in _PACKAGES.items() if _is_there(module)}
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": commit or _commit(),
        "card": _ask_card(_FIELDS),
        "python": platform.python_version(),
        "versions": found,
        "missing": [name for name in _PACKAGES if name not in found],
    }


def tell_facts(facts: dict[str, Any]) -> str:
    """The facts in two sentences."""
    card = facts["card"].split(", ")
    if len(card) == len(_FIELDS):
        name, driver, mhz, memory_mhz, watts = card
        told = f"{name}, driver {driver}, up to {mhz} MHz (memory {memory_mhz}) and {watts} W"
    else:
        told = facts["card"] or "no card: nvidia-smi shows none"
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    missing = f" Not installed: {', '.join(facts['missing'])}." if facts["missing"] else ""
    return (
        f"{facts['date']}, commit {facts['commit']}, {told}. "
        f"Python {facts['python']}, {versions}.{missing}"
    )


def _is_there(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _commit() -> str:
    commit = _run("git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD")
    changed = _run("git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no")
    return (f"{commit} with changes" if changed else commit) or "unknown"


def _ask_card(fields: Sequence[str]) -> str:
    """The first card's answer, separated by ", "."""
    answer = _run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    return answer.partition("\n")[0]


def _run(*command: str) -> str:
    """What a program prints; "" if it is not there, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


class Clocks:
    """The card's clock and power while something is measured, five times a second."""

    _COMMAND = "nvidia-smi --query-gpu=clocks.sm,power.draw --format=csv,noheader,nounits -lms 200"

    def __init__(self) -> None:
        # Medians; None without a card.
        self.mhz: float | None = None
        self.watts: float | None = None

    def __enter__(self) -> Clocks:
        self._file = tempfile.TemporaryFile("w+")
        try:
            self._process = subprocess.Popen(
                self._COMMAND.split(), stdout=self._file, stderr=subprocess.DEVNULL
            )
        except OSError:
            self._process = None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        with self._file as file:
            if self._process is None:
                return
            self._process.terminate()
            self._process.wait()
            file.seek(0)
            samples = [sample for line in file if (sample := _numbers(line))]
        if samples:
            self.mhz, self.watts = (
                statistics.median(column) for column in zip(*samples, strict=True)
            )


def _numbers(line: str) -> tuple[float, float] | None:
    """A line of nvidia-smi; None where the card does not say."""
    try:
        mhz, watts = map(float, line.split(","))
    except ValueError:
        return None
    return mhz, watts
