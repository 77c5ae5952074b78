"""Whether a node sees the run it is to work on; asked by the first line of an element's batch script.

A run directory that is not shared, that is another run's of the same name, or that may not be written would otherwise show as a traceback
of a library, or as work that nobody ever finds. In a container this is asked inside.

    python -m batchgen.launch.node_check RUN ID SUBMISSION     exit code 0: it does; else the batch script ends, and its log says why

A node on which SLURM cannot even write the log is told of by `status` (last_words.py).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from batchgen import slurm

PATIENCE_S = 10.0  # a file that was made a moment ago may show late on a network file system


def wrong(root: Path, run: str, number: int) -> str:
    """What is wrong with the run directory as this process sees it; "" if nothing is.

    :param run: the run's id.
    :param number: of the submission.
    """
    plan, submission = (
        root / ".batchgen" / "plan.json",
        root / ".batchgen" / "jobs" / f"{number:04d}.json",
    )
    try:
        found = json.loads(plan.read_bytes())["run"]
        if found != run:
            return f"is another run's of the same name ({found}, not {run})"
        submission.stat()
        for folder in (submission.with_suffix(""), root / ".batchgen" / "logs"):
            probe = folder / f"probe-{slurm.node()}-{os.getpid()}"
            probe.touch()
            probe.unlink()
    except FileNotFoundError as missing:
        return f"is not shared with it: there is no {missing.filename} here"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"cannot be used by user {os.getuid()} there: {error}"
    return ""


def main() -> None:
    """Answer the batch script."""
    root, run, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    end = time.monotonic() + PATIENCE_S
    while (trouble := wrong(root, run, number)) and time.monotonic() < end:
        time.sleep(1)
    if trouble:
        remedy = "Put the run on a file system that every node (and the container, if `python` is one) sees under this name, writable."
        sys.exit(f"batchgen: {slurm.node()}: the run directory {root} {trouble}. {remedy}")


if __name__ == "__main__":
    main()
