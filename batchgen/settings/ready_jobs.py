"""The job files that come with batchgen, found by name: `--job flux-dev`.

They stand in `jobs/` of the repository; the package has them through a link of that name.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parents[1] / "jobs"


def ready_jobs() -> list[str]:
    """Their names."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find_job(named: Path) -> Path:
    """The job file that is meant: the file of this name, or else batchgen's own of this name."""
    ready = _FOLDER / f"{named}.toml"
    return ready if str(named) in ready_jobs() and not named.exists() else named
