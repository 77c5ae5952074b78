"""How pictures are stored, and what they say of where they come from: `[output]`."""

from __future__ import annotations

from typing import Literal

from batchgen.settings.section import Section, setting


class Output(Section):
    """How pictures are stored."""

    format: Literal["jpg", "png", "webp"] = setting("jpg", "image codec")
    quality: int = setting(
        95,
        "of jpg (always 4:4:4) and webp; of lossless webp, the effort to make files small",
        ge=1,
        le=100,
        read_with={"output.format": ("jpg", "webp")},
    )
    lossless: bool = setting(
        False, "whether webp keeps every pixel", read_with={"output.format": ("webp",)}
    )
    xmp: bool = setting(
        True, "whether every picture says in XMP that a model made it, and which, by its digest"
    )
    license: str = setting("unknown", "licence of the pictures, named on the dataset card")
    force_license: bool = setting(
        False,
        "allow an open licence although the model's or a LoRA's is non-commercial: you have read "
        "them, and answer for it",
    )
