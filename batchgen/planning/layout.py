"""What a layout of devices is for: pictures soon, or the most pictures an hour.

Devices that make a picture together each hold all weights, and exchange tokens or velocities. At
best, so many devices need so many times less time for a group; as single workers they make as many
groups meanwhile, and exchange nothing. So the first is for latency, and the second for throughput.
"""

from __future__ import annotations

from batchgen.engine.parallel.mesh import choose_mesh
from batchgen.model import TINY, Checkpoint
from batchgen.planning.outlook import Outlook
from batchgen.planning.plan import Plan
from batchgen.settings import Job
from batchgen.units import duration


def describe_layout(job: Job, checkpoint: Checkpoint | None, plan: Plan, outlook: Outlook) -> str:
    """How long a group takes, and what another layout would give; "" where nobody would ask.

    That is for test cards, and for the embedded model on single devices.
    """
    parallel = job.parallel
    if checkpoint is None or (checkpoint.folder == TINY and parallel.degree == 1):
        return ""
    group_s = outlook.device_s / plan.groups
    full = f"a group ({plan.pictures / plan.groups:.3g} pictures on average)"
    if parallel.degree > 1:
        mesh = choose_mesh(parallel.shared, parallel.ulysses, parallel.ring, checkpoint.heads)
        how = f"{parallel.spelled}; ulysses = {mesh.ulysses}, ring = {mesh.ring}"
        return (
            f"{parallel.degree} devices ({how}) make {full} together, in "
            f"{_short(group_s / parallel.degree)} at best: for pictures soon. A device by itself "
            f"takes {_short(group_s)} and exchanges nothing: more pictures an hour, without "
            "[parallel]"
        )
    cfg = ", or cfg = 2 for the two rows of guidance" if plan.contrasted else ""
    return (
        f"one device makes {full} in {_short(group_s)}: the most pictures an hour. Two to a group "
        f"(parallel.cp = 2{cfg}) would need {_short(group_s / 2)} or more: for pictures soon"
    )


def _short(seconds: float) -> str:
    return duration(seconds) if seconds >= 10 else f"{seconds:.2g} s"
