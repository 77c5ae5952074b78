"""Ask on a node whether it sees the run it is to work on.

    python -m batchgen.launch.node_check RUN ID SUBMISSION

A batch script begins with this command; inside a container, if `python` of the site profile is
one. The exit code is 0 if the node sees the run. Otherwise the script ends, and its log says why.
Without this check, a run directory that is not shared or not writable, or that belongs to another
run of the same name, would show as a library's traceback or as work that nobody finds. A node that
cannot even write the log is named by `batchgen status`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from batchgen import slurm
from batchgen.durable_folder import try_folder

# A new file may appear late on a network file system.
PATIENCE_S = 10.0


def wrong(root: Path, run: str, number: int) -> str:
    """What is wrong with the run directory as this process sees it; "" if nothing is.

    :param run: the run's id.
    :param number: of the submission.
    """
    inner = root / ".batchgen"  # batchgen.run takes long to import on a cold node
    submission = inner / "jobs" / f"{number:04d}.json"
    try:
        found = json.loads((inner / "plan.json").read_bytes())["run"]
        if found != run:
            return f"is another run's of the same name ({found}, not {run})"
        submission.stat()
        for folder in (submission.with_suffix(""), inner / "logs"):
            try_folder(folder, f"probe-{slurm.node()}-{os.getpid()}")
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
        sys.exit(
            f"batchgen: {slurm.node()}: the run directory {root} {trouble}. Put the run on a file "
            "system that every node (and the container, if `python` is one) sees under this name, "
            "writable."
        )


if __name__ == "__main__":
    main()
