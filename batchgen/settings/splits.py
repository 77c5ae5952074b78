"""`[splits]`: which prompts are kept from training.

A prompt stands at a place in [0, 1), a hash of its text alone. So all pictures of a row, equal
prompts, and the same prompt in another run are on one side, whatever the order of the rows. No
picture depends on it, and so it may change from one `resume` to the next.
"""

from __future__ import annotations

import hashlib

from pydantic import model_validator

from batchgen.settings.section import Section, setting


class Splits(Section):
    """Shares of the prompts. A larger share keeps the prompts of a smaller one."""

    validation: float = setting(
        0.0, "share of the prompts kept for validation, chosen by a hash; 0: none", ge=0, lt=1
    )
    test: float = setting(
        0.0, "share of the prompts kept for a test, chosen by the same hash; 0: none", ge=0, lt=1
    )

    @model_validator(mode="after")
    def _leave_some(self) -> Splits:
        if self.validation + self.test >= 1:
            raise ValueError(
                f"splits.validation = {self.validation:g} and splits.test = {self.test:g} leave "
                "nothing to train on: expected less than 1 together"
            )
        return self

    def bounds(self) -> dict[str, tuple[float, float]]:
        """The splits there are, and the places of their prompts: from, and below."""
        end = round(1 - self.test, 12)  # 0.93, and not 0.9299999999999999
        train = {"train": (self.validation, end)}
        validation = {"validation": (0.0, self.validation)} if self.validation else {}
        test = {"test": (end, 1.0)} if self.test else {}
        return {**train, **validation, **test}


def prompt_place(prompt: str) -> float:
    """Where a prompt stands among all, in [0, 1): a hash of its text."""
    # A prompt that was not UTF-8 has never passed validation.
    hashed = hashlib.blake2b(prompt.encode(), digest_size=8, person=b"splits")
    return (int.from_bytes(hashed.digest()) >> 11) / 2**53  # the bits that a float holds
