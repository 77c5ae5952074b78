"""No environment variable changes what a batch script asks for; presets of the rest stay."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from batchgen import slurm
from batchgen.launch.batch_script import script
from batchgen.settings.site import Site
from batchgen.slurm.sbatch_variables import variables_against, variables_of

SITE = Site(gpus_per_node=8, time="12:00:00", nodes=4)


def text_of(site: Site, elements: int = 4) -> str:
    return script(site, Path("/runs/prompts"), "0123456789abcdef", elements)


# Variables whose names do not follow from their options, and some that do.
@pytest.mark.parametrize(
    ("option", "variables"),
    [
        ("time", ["SBATCH_TIMELIMIT"]),
        ("array", ["SBATCH_ARRAY_INX"]),
        ("mem", ["SBATCH_MEM_PER_NODE"]),
        ("clusters", ["SBATCH_CLUSTERS", "SLURM_CLUSTERS"]),
        ("hint", ["SBATCH_HINT", "SLURM_HINT"]),
        ("switches", ["SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"]),
        ("verbose", ["SBATCH_DEBUG"]),
        ("gpus-per-node", ["SBATCH_GPUS_PER_NODE"]),
        ("no-requeue", ["SBATCH_NO_REQUEUE"]),
        ("mem-per-gpu", ["SBATCH_MEM_PER_GPU"]),
    ],
)
def test_the_variables_of_an_option(option: str, variables: list[str]) -> None:
    assert list(variables_of(option)) == variables


@pytest.mark.skipif(not shutil.which("man"), reason="no manuals here")
def test_the_variables_are_those_of_the_manual_of_sbatch() -> None:
    shown = subprocess.run(
        ["man", "sbatch"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "MANWIDTH": "200"},
    ).stdout
    section = shown.partition("\nINPUT ENVIRONMENT")[2].partition("\nOUTPUT ENVIRONMENT")[0]
    if not section:
        pytest.skip("no manual of sbatch here")
    named = re.findall(
        r"((?:(?:or )?S[A-Z]+_[A-Z_0-9]+\s+)+)(?:Same\s+as|.*?See)[^-]*(?:-\w, )?--([a-z-]+)",
        section,
    )
    assert len(named) > 40
    for variables, option in named:
        for variable in re.findall(r"S[A-Z]+_[A-Z_0-9]+", variables):
            assert variable in variables_of(option), f"{variable}: --{option}"


@pytest.mark.parametrize(
    ("site", "hidden", "kept"),
    [
        (
            SITE,
            (
                "TIMELIMIT JOB_NAME SIGNAL REQUEUE NO_REQUEUE OUTPUT ERROR OPEN_MODE WAIT INPUT "
                "ARRAY_INX USE_MIN_NODES CPUS_PER_GPU TRES_PER_TASK "
                "GPUS GPUS_PER_NODE GPUS_PER_TASK GRES"
            ),
            (
                "ACCOUNT PARTITION QOS CONSTRAINT RESERVATION MEM_PER_NODE MEM_PER_CPU EXPORT "
                "WCKEY CLUSTERS EXCLUSIVE"
            ),
        ),
        (
            SITE.model_copy(update={"partition": "gpu", "mem": "64G", "account": "us"}),
            "PARTITION ACCOUNT MEM_PER_NODE MEM_PER_CPU MEM_PER_GPU",
            "QOS CONSTRAINT",
        ),
        (
            SITE.model_copy(update={"sbatch": ("--exclusive", "--export=ALL", "--switches=1")}),
            "EXCLUSIVE EXPORT REQ_SWITCH WAIT4SWITCH",
            "ACCOUNT",
        ),
        (
            Site(gpus_per_node=0, workers_per_node=4, time="1:00:00", requeue=False),
            "GPUS GPUS_PER_NODE GRES REQUEUE NO_REQUEUE ARRAY_INX",
            "ACCOUNT",
        ),
    ],
)
def test_what_a_script_says_is_hidden_and_what_it_leaves_open_is_kept(
    site: Site, hidden: str, kept: str
) -> None:
    against = variables_against(text_of(site, elements=1))
    assert {f"SBATCH_{name}" for name in hidden.split()} <= against
    assert not {f"SBATCH_{name}" for name in kept.split()} & against


def test_slurm_checks_a_script_without_the_variables_that_would_win(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sbatch = tmp_path / "sbatch"
    sbatch.touch(mode=0o755)
    sbatch.write_text('#!/bin/sh\ncat > /dev/null\necho "$SBATCH_TIMELIMIT,$SBATCH_QOS"')
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SBATCH_TIMELIMIT", "1")
    monkeypatch.setenv("SBATCH_QOS", "preset")
    assert slurm.test_only(text_of(SITE)) == ",preset"
    assert os.environ["SBATCH_TIMELIMIT"] == "1"
