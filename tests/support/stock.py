"""Pictures that the embedded model can make, and how stock diffusers makes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from batchgen.manifest import Picture
from batchgen.settings.job import Job, parse_job

TEXT_TOKENS = 32
PROMPTS = [
    "a large red circle",
    "two blue squares",
    "a small green star",
    "a yellow triangle above a red square",
]


def make_picture(key: int = 0, **changes: Any) -> Picture:
    """A picture that the embedded model can make. Prompt, seed and guidance follow from its key."""
    values: dict[str, Any] = {
        "key": key,
        "row": key,
        "image": 0,
        "id": "",
        "prompt": PROMPTS[key % len(PROMPTS)],
        "negative_prompt": "",
        "seed": 1000 + key,
        "width": 128,
        "height": 128,
        "steps": 8,
        "guidance": 2.0 + key / 2,
        "true_cfg": 1.0,
        "extra": "{}",
    }
    return Picture(**(values | changes))


def make_job(folder: Path | str = "tiny", **model: Any) -> Job:
    model = {"path": str(folder), "max_sequence_length": TEXT_TOKENS, **model}
    return parse_job({"model": model, "engine": {"device": "cpu"}}, "a test")


def stock_call(
    pipeline: Any, group: Sequence[Picture], output_type: str, *, text_tokens: int = TEXT_TOKENS
) -> Any:
    """What a user of FluxPipeline writes for these pictures.

    Guidance and true_cfg are the first picture's.
    """
    first = group[0]
    negative = [picture.negative_prompt for picture in group] if first.negative_prompt else None
    return pipeline(
        prompt=[picture.prompt for picture in group],
        negative_prompt=negative,
        true_cfg_scale=first.true_cfg,
        guidance_scale=first.guidance,
        width=first.width,
        height=first.height,
        num_inference_steps=first.steps,
        generator=[torch.Generator().manual_seed(picture.seed) for picture in group],
        max_sequence_length=text_tokens,
        output_type=output_type,
    ).images


def sd3_call(
    pipeline: Any,
    group: Sequence[Picture],
    output_type: str = "latent",
    *,
    text_tokens: int = TEXT_TOKENS,
) -> Any:
    """What a user of StableDiffusion3Pipeline writes. Guidance is the first picture's."""
    first = group[0]
    return pipeline(
        prompt=[picture.prompt for picture in group],
        negative_prompt=[picture.negative_prompt for picture in group],
        guidance_scale=first.guidance,
        width=first.width,
        height=first.height,
        num_inference_steps=first.steps,
        generator=[torch.Generator().manual_seed(picture.seed) for picture in group],
        max_sequence_length=text_tokens,
        output_type=output_type,
    ).images


def psnr(one: Any, other: Any) -> float:
    """Peak signal-to-noise ratio in dB, against the range of the first."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    return float(10 * np.log10(np.ptp(one) ** 2 / max(np.mean((one - other) ** 2), 1e-30)))
