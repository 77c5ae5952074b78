"""[audit]: chosen pictures are made once more without the cache, and compared with what is stored.

main thread       denoise group k ─ audit: denoise the chosen ones again ─ denoise group k+1
writing thread                    └ decode and encode k ─ decode the audit, compare, write k

An audit fails no picture. What it cannot measure is recorded so, with the reason. A group whose
process died before, and which is therefore made picture by picture, is not audited: whatever its
audit does to a process, its pictures are made. Pixels are compared before they are encoded, and
what an audit does leaves no trace in a tar.

The chosen pictures of a group are denoised together, as a smaller group. Beside the cache, only the
rounding of smaller matrix products tells the two apart.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from batchgen.engine import Denoised
from batchgen.errors import DeviceFault
from batchgen.fidelity import Pixels, psnr, ssim
from batchgen.manifest import Picture
from batchgen.settings import Job
from batchgen.shard import AuditOutcome, Route, key_text

log = logging.getLogger(__name__)
# Other groups are made picture by picture, because they failed or ended their process.
AUDITED_ROUTES: tuple[Route, ...] = ("normal", "oom_split")
# Why a chosen picture is not measured.
FAILED = "the picture itself could not be made"
_NOT_FINITE = "without the cache the latents hold NaN or infinity"


@dataclass(frozen=True, slots=True)
class Audited:
    """What the audit found about one picture, as its record tells it."""

    outcome: AuditOutcome = ""
    error: str = ""
    psnr: float | None = None
    ssim: float | None = None
    # The picture's share of the seconds that the device worked on its group's audit.
    device_s: float = 0.0


NOT_AUDITED = Audited()


@dataclass(frozen=True, slots=True)
class Uncached:
    """Chosen pictures of a group, denoised without the cache; or why they are not."""

    pictures: Sequence[Picture]
    denoised: Denoised | None = None
    error: str = ""


class Reference(NamedTuple):
    """A picture without the cache; or why there is none."""

    pixels: Pixels | None
    error: str
    # Seconds, as in `Audited`.
    device_s: float


INTERRUPTED = Reference(None, "the worker had to leave at once", 0.0)


@dataclass(frozen=True, slots=True)
class Auditor:
    """The audit of one run; by default of one that audits nothing."""

    job: Job = field(default_factory=Job)

    def chosen(self, pictures: Sequence[Picture]) -> list[Picture]:
        """The pictures that are audited; the same in every attempt."""
        return [picture for picture in pictures if self.job.audits(picture.key)]

    def denoise(
        self,
        pictures: Sequence[Picture],
        path: Route,
        denoise: Callable[[Sequence[Picture]], Denoised],
    ) -> Uncached:
        """Denoise chosen pictures without the cache.

        :param pictures: of one group, at least one.
        :param path: how their group was made.
        :param denoise: the engine's, without the cache.
        :raises DeviceFault: the process must end.
        """
        if path not in AUDITED_ROUTES:
            return Uncached(pictures, error="its group failed or ended its process before")
        try:
            return Uncached(pictures, denoise(pictures))
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - whatever is raised costs the audit alone
            return Uncached(pictures, error=_told(pictures, error))

    def decode(
        self, uncached: Uncached, decode: Callable[[Denoised], tuple[Pixels, float]]
    ) -> dict[int, Reference]:
        """The pictures without the cache, by key.

        :param decode: the engine's.
        :raises DeviceFault: the process must end.
        """
        pictures, denoised = uncached.pictures, uncached.denoised
        if denoised is None:
            return {one.key: Reference(None, uncached.error, 0.0) for one in pictures}
        spent_s = denoised.text_s + denoised.denoise_s
        try:
            images, decode_s = decode(denoised)
        except DeviceFault:
            raise
        except Exception as error:  # noqa: BLE001 - as above
            share_s, why = spent_s / len(pictures), _told(pictures, error)
            return {one.key: Reference(None, why, share_s) for one in pictures}
        share_s = (spent_s + decode_s) / len(pictures)
        return {
            one.key: Reference(image if finite else None, "" if finite else _NOT_FINITE, share_s)
            for one, image, finite in zip(pictures, images, denoised.finite, strict=True)
        }

    def judge(self, made: Pixels | None, reference: Reference | None) -> Audited:
        """Compare a picture with what it is without the cache.

        :param made: its pixels [H, W, 3] as they are encoded; None if it failed.
        :param reference: None if it is not audited.
        """
        if reference is None:
            return NOT_AUDITED
        if made is None or reference.pixels is None:
            error = reference.error or FAILED
            return Audited("not measured", error, device_s=reference.device_s)
        decibels, floor = psnr(made, reference.pixels), self.job.audit.min_psnr
        outcome: AuditOutcome = "below" if floor is not None and decibels < floor else "measured"
        likeness = ssim(made, reference.pixels)
        return Audited(outcome, "", decibels, likeness, reference.device_s)


def _told(pictures: Sequence[Picture], error: Exception) -> str:
    """Why pictures are not measured; it is logged too."""
    why = f"{type(error).__name__}: {error}"[:2000]
    keys = ", ".join(key_text(picture.key) for picture in pictures)
    log.warning("the audit could not measure %s, which are made all the same: %s", keys, why)
    return why
