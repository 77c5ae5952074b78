"""The unit of work: one planned picture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Picture:
    """One planned picture: everything that decides how it looks, and its name."""

    key: int  # running number of the picture in the run; 9 digits in file names
    row: int  # number of its row in the manifest, counted over all its files
    image: int  # 0 … images-1: which picture of its row
    id: str  # the row's id, "" where there is none
    prompt: str
    negative_prompt: str  # "" for none
    seed: int  # 0 … 2**63-1, of this picture
    width: int  # px
    height: int  # px
    steps: int  # denoising steps
    guidance: float  # embedded guidance
    true_cfg: float  # classifier-free guidance scale; used only with a negative prompt
    extra: str  # the row's other columns as one JSON object, "{}" where there are none
