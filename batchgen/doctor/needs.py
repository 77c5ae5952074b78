"""What a job needs of a machine. Without a job, capabilities are told and nothing is needed."""

from __future__ import annotations

from dataclasses import dataclass

from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.settings import Job, Site


@dataclass(frozen=True, slots=True)
class Needs:
    """A job's needs, and those of the site whose node this is."""

    # None: no job was given.
    job: Job | None = None
    # Whose node this is; None: this machine works for itself.
    site: Site | None = None

    @property
    def rehearses(self) -> bool:
        """Whether the job draws test cards: that needs no device, no compiler and no model."""
        return self.job is not None and self.job.engine.kind == "pattern"

    @property
    def cards(self) -> int:
        """The fewest CUDA cards that will do."""
        if self.job and self.job.engine.device == "cpu":
            return 0
        if self.site:
            return self.site.gpus_per_node
        return self.job.parallel.degree if self.job and self.job.engine.device == "cuda" else 0

    def linear(self, kind: str) -> bool:
        """Whether the job's blocks multiply so: `fp8`, `int8`."""
        return bool(self.job and self.job.precision.linear == kind)

    def attention(self, kernel: str) -> bool:
        """Whether the job names this attention kernel."""
        return bool(self.job and self.job.engine.attention == kernel)

    @property
    def ranks(self) -> bool:
        """Whether several processes make one picture."""
        return bool(self.job and self.job.parallel.degree > 1)

    @property
    def nodes(self) -> int:
        """How many nodes of the site a replica fills."""
        return self.site.span(self.job.parallel.degree) if self.site and self.job else 1

    def compiles(self, *, cuda: bool) -> bool:
        """Whether blocks are compiled on this kind of device; without a job, as by default."""
        job = self.job or Job()
        mode, layers = job.compile.mode, job.engine.offload == "layers"
        return (cuda and not layers) if mode == "auto" else mode != "none"


def absent(name: str, found: str, remedy: str, *, needed: bool, matters: str) -> Finding:
    """A capability that this machine does not have.

    :param matters: the setting for which alone it matters.
    """
    if needed:
        return failed(name, found, remedy)
    return ok(name, f"not available: {found}. Only matters for {matters}")


def broken(name: str, found: str, remedy: str, *, needed: bool) -> Finding:
    """Something that this machine should be able to do, and that did not work."""
    return failed(name, found, remedy) if needed else warning(name, found, remedy)
