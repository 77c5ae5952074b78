"""Environment variables that set options of sbatch, and win over those in a batch script.

They are listed in the manual of sbatch, "input environment variables". A variable is named after
its option, SBATCH_GPUS_PER_NODE for --gpus-per-node, unless this file says otherwise.
"""

from __future__ import annotations

import re

# By option. Variables of 17.11 to 25.05.
_NAMED_OTHERWISE = {
    "array": ("SBATCH_ARRAY_INX",),
    "clusters": ("SBATCH_CLUSTERS", "SLURM_CLUSTERS"),
    "cpu-freq": ("SBATCH_CPU_FREQ_REQ",),
    "hint": ("SBATCH_HINT", "SLURM_HINT"),
    "mem": ("SBATCH_MEM_PER_NODE",),
    "segment": ("SBATCH_SEGMENT_SIZE",),
    "switches": ("SBATCH_REQ_SWITCH", "SBATCH_WAIT4SWITCH"),
    "time": ("SBATCH_TIMELIMIT",),
    "verbose": ("SBATCH_DEBUG",),
}
# Options about one matter: beside one of them in the script, another would contradict it or ask
# for more.
_ONE_MATTER = (
    {"mem", "mem-per-cpu", "mem-per-gpu"},
    {"gpus", "gpus-per-node", "gpus-per-socket", "gpus-per-task", "gres", "tres-per-task"},
    {"cpus-per-task", "cpus-per-gpu", "tres-per-task"},
    {"requeue", "no-requeue"},
    {"nodes", "use-min-nodes"},
)
# What every script of batchgen decides, also by leaving it out: one element is no array, a site may
# have no GPUs, errors go where the output goes, and nobody waits for the job.
_LEFT_OUT = {"array", "gpus-per-node", "error", "input", "wait"}


def variables_against(script: str) -> set[str]:
    """The variables that would override or contradict what a batch script asks for."""
    options = _LEFT_OUT | set(re.findall(r"^#SBATCH --([a-z-]+)", script, re.MULTILINE))
    related = [matter for matter in _ONE_MATTER if matter & options]
    return {name for option in options.union(*related) for name in variables_of(option)}


def variables_of(option: str) -> tuple[str, ...]:
    """The variables that set an option, for example `time`."""
    return _NAMED_OTHERWISE.get(option, (f"SBATCH_{option.upper().replace('-', '_')}",))
