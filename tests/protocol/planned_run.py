"""The small planned run that most trials start from, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.protocol import recount
from tests.protocol.run_copy import RunCopy

BATCH_SIZE, SHARD = 2, 6


@dataclass(frozen=True)
class PlannedRun:
    """A planned run and what must come of it."""

    template: Path
    prompts: list[str]
    # Keys of the pictures that cannot be made.
    failures: frozenset[int]
    # Tar hashes of an undisturbed run.
    reference: dict[str, str]
    # What its audit says of each audited picture, by key (`recount.audits`).
    audits: dict[int, recount.Audit]
    # Makes a fresh copy.
    copy: Callable[[], RunCopy]
    threads: ThreadPoolExecutor

    def wrong_trials(
        self, trials: Iterable[Any], wrong_after: Callable[[Any], list[str]]
    ) -> dict[str, list[str]]:
        """As `wrong_trials`, as many at once as there are cores."""
        return wrong_trials(self.threads, trials, wrong_after)


def wrong_trials(
    threads: ThreadPoolExecutor, trials: Iterable[Any], wrong_after: Callable[[Any], list[str]]
) -> dict[str, list[str]]:
    """The trials that went wrong, and how; as many at once as there are threads."""
    kept = list(trials)
    assert kept
    answers = list(threads.map(wrong_after, kept))
    print(f"{len(kept)} trials")
    found = {str(trial): wrong for trial, wrong in zip(kept, answers, strict=True) if wrong}
    for trial, wrong in found.items():
        print(trial, *wrong, sep="\n  ")
    return found
