"""What a job asks for and cannot have, said before anything starts. Imports no torch.

Whether a card multiplies FP8, or holds the model, is known where the card is: the engine refuses there (`engine/build.py`). What can
be said from the job and the model's configuration is said here, and all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterator

from batchgen.checkpoint import Checkpoint
from batchgen.engine.mesh import choose_layout
from batchgen.engine.policies import make_policy
from batchgen.engine.precision_rules import check_independence
from batchgen.errors import JobError
from batchgen.job import Job


def refuse_impossible(job: Job, checkpoint: Checkpoint | None) -> None:
    """Check what the engine would refuse when it is built.

    :param checkpoint: None: test cards, which need nothing.
    :raises JobError: every reason, a line each.
    """
    if checkpoint is not None and (reasons := list(_reasons(job, checkpoint))):
        raise JobError("\n".join(reasons))


def _reasons(job: Job, checkpoint: Checkpoint) -> Iterator[str]:
    cp, asked = job.parallel.degree, job.precision
    for check in (
        lambda: choose_layout(cp, job.parallel.ulysses, job.parallel.ring, checkpoint.heads),
        lambda: make_policy(job.cache, checkpoint.family, checkpoint.blocks),
        lambda: check_independence(asked.linear, asked.granularity, cp=cp, group=job.engine.batch_size, force=asked.force),
    ):
        try:
            check()
        except JobError as error:
            yield str(error)
    if job.engine.offload == "layers" and job.compile.mode not in ("auto", "none"):
        yield f'compile.mode = "{job.compile.mode}" with engine.offload = "layers": layers that move cannot be compiled; drop one'
    if job.sampling.true_cfg > 1 and checkpoint.contrasts:
        yield f"sampling.true_cfg = {job.sampling.true_cfg}: this family's guidance is classifier-free already; set sampling.guidance"
