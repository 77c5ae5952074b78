"""Options of srun in a site profile, refused before an allocation is spent on them."""

from __future__ import annotations

from batchgen.errors import SiteError
from batchgen.settings import Site
from batchgen.slurm import check_srun

_LAYOUT = "the tasks follow from gpus_per_node, workers_per_node and [parallel]"
_LOGS = "batchgen names the logs"
_DEATHS = "batchgen decides what follows a task's death"
_NO_WORK = "srun would start no worker"
# Options that would undo what batchgen sets, and why.
_REFUSED = {
    **dict.fromkeys(("-n", "--ntasks", "--ntasks-per-node", "-N", "--nodes"), _LAYOUT),
    **dict.fromkeys(("-c", "--cpus-per-task"), "set cpus_per_gpu instead"),
    **dict.fromkeys(("-o", "--output", "-e", "--error", "-l", "--label"), _LOGS),
    **dict.fromkeys(("-K", "--kill-on-bad-exit", "-W", "--wait"), _DEATHS),
    **dict.fromkeys(("-h", "--help", "--usage", "-V", "--version", "--test-only"), _NO_WORK),
    **dict.fromkeys(("--multi-prog", "--pty"), _NO_WORK),
}


def refuse_srun_options(site: Site) -> None:
    """Refuse options of srun that cannot work: those that batchgen knows, then those of srun.

    :raises SiteError: with the reason.
    """
    for word in site.srun:
        name, _, value = word.partition("=")
        if not name.startswith("--"):
            name = name[:2]
        if name in _REFUSED:
            raise SiteError(f"srun = [{word!r}] in the site profile: {_REFUSED[name]}")
        if name == "--export" and "ALL" not in value.split(","):
            raise SiteError(
                f"srun = [{word!r}] in the site profile: workers need the environment of the batch "
                'script. Write "--export=ALL,NAME=VALUE", or export variables in setup'
            )
    check_srun(site.srun)
