"""What audits have measured so far: counts, means and worsts over audited pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from batchgen.shard.records import Record


@dataclass(frozen=True, slots=True)
class Loss:
    """How far cached pictures are from what they would be without the cache.

    Means and worsts are None if no picture was measured.
    """

    # Audited pictures that were compared, and those that could not be.
    measured: int = 0
    unmeasured: int = 0
    # How many of the measured ones are below the floor that held when they were made.
    below: int = 0
    # dB.
    psnr_mean: float | None = None
    psnr_worst: float | None = None
    ssim_mean: float | None = None
    ssim_worst: float | None = None
    # Seconds that the device worked on audits: text, denoising and decoding.
    device_s: float = 0.0

    @classmethod
    def of(cls, records: Iterable[Record]) -> Loss:
        """The loss over these records; those of pictures that were not audited count nothing."""
        audited = [record for record in records if record.audit]
        psnrs = [record.psnr for record in audited if record.psnr is not None]
        ssims = [record.ssim for record in audited if record.ssim is not None]
        return cls(
            measured=len(psnrs),
            unmeasured=len(audited) - len(psnrs),
            below=sum(record.audit == "below" for record in audited),
            psnr_mean=sum(psnrs) / len(psnrs) if psnrs else None,
            psnr_worst=min(psnrs, default=None),
            ssim_mean=sum(ssims) / len(ssims) if ssims else None,
            ssim_worst=min(ssims, default=None),
            device_s=sum(record.audit_s for record in audited),
        )

    @property
    def pictures(self) -> int:
        """Audited pictures."""
        return self.measured + self.unmeasured

    def plus(self, other: Loss) -> Loss:
        """The loss over the pictures of both."""
        measured = self.measured + other.measured

        def mean(one: float | None, two: float | None) -> float | None:
            total = (one or 0.0) * self.measured + (two or 0.0) * other.measured
            return total / measured if measured else None

        return Loss(
            measured=measured,
            unmeasured=self.unmeasured + other.unmeasured,
            below=self.below + other.below,
            psnr_mean=mean(self.psnr_mean, other.psnr_mean),
            psnr_worst=_least(self.psnr_worst, other.psnr_worst),
            ssim_mean=mean(self.ssim_mean, other.ssim_mean),
            ssim_worst=_least(self.ssim_worst, other.ssim_worst),
            device_s=self.device_s + other.device_s,
        )


def _least(*values: float | None) -> float | None:
    return min((value for value in values if value is not None), default=None)
