"""SLURM's commands, its controller and its accounting, as this machine sees them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from batchgen import slurm
from batchgen.doctor.finding import Finding, failed, ok
from batchgen.errors import SchedulerSilent, brief

_COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")


def scheduler(*, needed: bool) -> Iterator[Finding]:
    """Whether SLURM can be asked.

    :param needed: whether a site was named.
    """
    missing = [name for name in _COMMANDS if not shutil.which(name)]
    if missing:
        told = f"no {', '.join(missing)} here"
        if needed:
            yield failed("slurm", told, "Type this on a machine of the cluster")
        else:
            yield ok("slurm", f"{told}. Only matters for --site")
        return
    try:
        answers, accounting = slurm.ping(), slurm.accounting()
    except SchedulerSilent as silent:
        if needed:
            yield failed("slurm", str(silent), "scontrol ping; ask the administrator")
        else:
            told = f"no controller answers here ({brief(str(silent), 60)})"
            yield ok("slurm", f"{told}. Only matters for --site")
        return
    yield ok("slurm", answers)
    kept = f"on ({accounting})" if accounting else "off"
    yield ok("accounting", f"{kept}; batchgen does without it")
