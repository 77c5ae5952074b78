"""An squeue that answers what a test wants."""

import os
from pathlib import Path

import pytest

from batchgen.slurm import commands

MINE, ITS = "100", "200"  # the job that asks, and the job it asks about
FAILS, HANGS, NONSENSE = "fails", "hangs", "nonsense"


def line(
    job: str,
    state: str = "RUNNING",
    restarts: int = 0,
    reason: str = "None",
    comment: str = "batchgen:abc:1",
) -> str:
    return f"{job:<24}{job:<24}{'N/A':<24}{state:<24}{restarts:<12}{reason:<80}{comment:<240}"


ALIVE, SELF = line(ITS), line(MINE)


class FakeSqueue:
    """An squeue that gives one answer after another; the last for ever."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        count = f"#!/bin/sh\ncd {folder}\nn=$(cat asked)\necho $((n + 1)) > asked\n"
        (folder / "squeue").write_text(
            count + "while [ ! -e answer$n ]; do n=$((n - 1)); done\nexec sh answer$n\n"
        )
        (folder / "squeue").chmod(0o755)
        (folder / "asked").write_text("0\n")
        patch.setenv("PATH", str(folder), prepend=os.pathsep)
        patch.setattr(commands, "ANSWER_S", 1.5)

    def answer(self, *answers: list[str] | str) -> None:
        for number, told in enumerate(answers):
            scripts = {
                FAILS: "echo slurm_load_jobs error: Unable to contact slurm controller >&2; exit 1",
                HANGS: "sleep 9",
                NONSENSE: "echo 404",
            }
            text = (
                scripts[told]
                if isinstance(told, str)
                else "".join(f"echo '{row}'\n" for row in told)
            )
            (self.folder / f"answer{number}").write_text(text)

    @property
    def asked(self) -> int:
        return int((self.folder / "asked").read_text())
