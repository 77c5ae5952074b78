"""The quickest setting that keeps the floor, and how sure that is for pictures never seen.

**What is promised.** A setting keeps the floor if a picture chosen at random from the manifest
lies above it with a chance of `share` at least. Of n sampled pictures, k miss the floor. If the
setting kept it for less than `share` of all pictures, so few misses would come with a chance of at
most P(Bin(n, 1 - share) ≤ k). A setting passes if k is so small that this chance is at most
1 - `CONFIDENCE`. For a share of 95%, this asks for 59 pictures without a miss, 93 with one, 124
with two (S. S. Wilks, "Determination of sample sizes for setting tolerance limits", 1941). A
smaller sample passes without a miss only, and the confidence that it gives is told.

**Why settings are tried in order.** To choose among many settings by the same sample would make it
likely that one passes by luck. Those of a policy are therefore tried from careful to bold, and the
first one that fails ends its policy: a test in fixed sequence, which holds its confidence without a
correction (https://arxiv.org/abs/2110.01052, section 2.4). Each policy is a sequence of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from batchgen.calibration.compare import Likeness, Measured

CONFIDENCE = 0.95
# Times that differ by less count as equal, however quiet the machine seems.
LEAST_NOISE = 0.02


@dataclass(frozen=True, slots=True)
class Floor:
    """What pictures made with a cache must keep, compared with the same ones made without."""

    psnr_db: float
    ssim: float
    # The share of all pictures that must keep it.
    share: float

    def keeps(self, picture: Likeness) -> bool:
        """Whether a picture lies at the floor or above."""
        return picture.psnr_db >= self.psnr_db and picture.ssim >= self.ssim

    def misses(self, measured: Measured) -> int:
        """How many pictures of the sample lie below."""
        return sum(not self.keeps(picture) for picture in measured.pictures)

    def allowed(self, pictures: int) -> int:
        """How many pictures of a sample may lie below."""
        most = 0
        while most < pictures and self.confidence(pictures, most + 1) >= CONFIDENCE:
            most += 1
        return most

    def confidence(self, pictures: int, misses: int) -> float:
        """How sure it is, by a sample with so many misses, that the share keeps the floor."""
        below = 1 - self.share
        chances = (
            math.comb(pictures, k) * below**k * self.share ** (pictures - k)
            for k in range(misses + 1)
        )
        return 1 - math.fsum(chances)

    @property
    def least_sample(self) -> int:
        """The smallest sample that gives the confidence, if none of its pictures lies below."""
        return math.ceil(math.log(1 - CONFIDENCE) / math.log(self.share))

    def passes(self, measured: Measured) -> bool:
        """Whether the sample says that the setting keeps the floor."""
        return self.misses(measured) <= self.allowed(len(measured.pictures))

    def told(self, pictures: int) -> str:
        """The rule for a sample, in a sentence."""
        allowed = self.allowed(pictures)
        rule = "the worst" if not allowed else f"all but {allowed}"
        sure, needed = self.confidence(pictures, allowed), self.least_sample
        few = f" ({needed} pictures give {CONFIDENCE:.0%})" if pictures < needed else ""
        return (
            f"{rule} of {pictures} sampled pictures at {self.psnr_db:g} dB and SSIM {self.ssim:g} "
            f"or more, so with {min(sure, 0.999):.1%} confidence{few} at least {self.share:.0%} of "
            "unseen ones"
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """What is recommended."""

    chosen: Measured
    # Why this setting, in a sentence.
    reason: str


def choose(plain: Measured, families: Sequence[Sequence[Measured]], floor: Floor) -> Choice:
    """The quickest setting that keeps the floor; without a cache, if no setting is quicker.

    Of each policy that is the one with the fewest computed steps. Its time would say the same, but
    other work on the machine comes and goes from one run to the next. Policies are compared by
    their times, and those that cannot be told apart from the quickest by their computed steps.

    :param families: what was measured, a list a policy, from careful to bold.
    """
    passing = [list(takewhile(floor.passes, family)) for family in families]
    best = [plain, *(min(family, key=lambda one: one.computed) for family in passing if family)]
    quickest = min(best, key=lambda one: one.device_s)
    equal = [one for one in best if _alike(one, quickest)]
    chosen = min(equal, key=lambda one: (one.computed, one.device_s))
    if len(best) == 1:
        return Choice(plain, "no setting that was tried keeps the floor")
    names = ", ".join(one.name for one in best)
    if len(equal) == 1:
        return Choice(chosen, f"the fewest device-seconds of what keeps the floor ({names})")
    names = ", ".join(one.name for one in equal)
    return Choice(
        chosen,
        f"the fewest computed steps of what keeps the floor and takes equally long ({names})",
    )


def _alike(one: Measured, other: Measured) -> bool:
    """Whether two times differ by less than two standard errors of their difference."""
    noise = max(2 * math.hypot(one.noise, other.noise), LEAST_NOISE)
    return abs(one.device_s - other.device_s) <= noise * other.device_s
