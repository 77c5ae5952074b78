"""An squeue and an scontrol that answer what a test wants."""

import os
from pathlib import Path

import pytest

from batchgen.slurm import commands

# The job that asks, and the job it asks about.
MINE, ITS = "100", "200"
FAILS, HANGS, NONSENSE, BINARY = "fails", "hangs", "nonsense", "binary"
FORGOTTEN = "echo slurm_load_jobs error: Invalid job id specified >&2; exit 1"
_SCRIPTS = {
    FAILS: "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
    HANGS: "sleep 9",
    NONSENSE: "echo 404",
    BINARY: r"printf '\000\377\201\033[2J\n'",
}


def line(
    job: str,
    state: str = "RUNNING",
    restarts: int = 0,
    reason: str = "None",
    comment: str = "batchgen:abc:1",
    *,
    element: tuple[str, str] | None = None,
) -> str:
    """A line of squeue's listing.

    :param element: array id and index, if the job is an element of an array.
    """
    array, index = element or (job, "N/A")
    ids = f"{job:<24}{array:<24}{index:<24}"
    return f"{ids}{state:<24}{restarts:<12}{reason:<80}{comment:<240}"


def record(job: str, state: str = "RUNNING", array: str = "", tasks: str = "") -> str:
    """What `scontrol --oneliner show job` prints of a job, shortened.

    :param tasks: of an array: `3`, or `4-9%2` for those that have not started.
    """
    of_array = f"ArrayJobId={array} ArrayTaskId={tasks} ArrayTaskThrottle=2 " if array else ""
    node = "NodeList=node7" if state != "PENDING" else "NodeList="
    return (
        f"JobId={job} {of_array}JobName=batchgen-run UserId=me(1) JobState={state} Reason=Priority "
        f"Dependency=(null) Requeue=1 Restarts=0 {node} Comment=batchgen:abc:1 of us  Power="
    )


ALIVE, SELF = line(ITS), line(MINE)


class FakeSqueue:
    """An squeue on the PATH that gives one answer after another, and the last one for ever.

    The scontrol beside it has forgotten all jobs, until a test says otherwise.
    """

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        count = f"#!/bin/sh\ncd {folder}\nn=$(cat asked)\necho $((n + 1)) > asked\n"
        answer = "while [ ! -e answer$n ]; do n=$((n - 1)); done\nexec sh answer$n\n"
        (folder / "squeue").write_text(count + answer)
        (folder / "squeue").chmod(0o755)
        (folder / "asked").write_text("0\n")
        self.controller(FORGOTTEN)
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        patch.setattr(commands, "ANSWER_S", 1.5)

    def answer(self, *answers: list[str] | str) -> None:
        """Give these answers: listings as lists of lines, or FAILS, HANGS, NONSENSE."""
        for number, told in enumerate(answers):
            lines = told if isinstance(told, list) else []
            script = _SCRIPTS[told] if isinstance(told, str) else ""
            script += "".join(f"echo '{row}'\n" for row in lines)
            (self.folder / f"answer{number}").write_text(script)

    def controller(self, *answers: str) -> None:
        """Let scontrol run this script, or print these records."""
        told = answers[0] if answers[0].startswith("echo ") else ""
        told = told or "".join(f"echo '{answer}'\n" for answer in answers)
        script = self.folder / "scontrol"
        script.write_text(f"#!/bin/sh\necho $* >> {self.folder}/controlled\n{told}\n")
        script.chmod(0o755)

    @property
    def asked(self) -> int:
        """How many listings were made."""
        return int((self.folder / "asked").read_text())
