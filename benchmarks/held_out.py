"""Prompts that the embedded model was not trained on, as pictures to be painted, and the scenes
they describe.
"""

from __future__ import annotations

from itertools import islice

from batchgen.manifest import Picture
from training.scenes import SIZES, Scene, scenes_from

TEXT_TOKENS = 32  # what the captions are padded to


def held_out(
    count: int, sizes: tuple[tuple[int, int], ...] = SIZES, steps: int = 28
) -> list[tuple[Picture, Scene]]:
    """The first `count` held-out scenes of these sizes, (width, height) in px, in turn as
    `training.scenes` has them.
    """
    fitting = (
        scene for scene in scenes_from(0, held_out=True) if (scene.width, scene.height) in sizes
    )
    return [
        (of_prompt(key, scene.caption, (scene.width, scene.height), steps), scene)
        for key, scene in enumerate(islice(fitting, count))
    ]


def of_prompt(key: int, prompt: str, size: tuple[int, int], steps: int) -> Picture:
    """A picture whose seed is its key."""
    width, height = size
    return Picture(
        key,
        key,
        0,
        "",
        prompt,
        "",
        key,
        width,
        height,
        steps,
        guidance=3.5,
        true_cfg=1.0,
        extra="{}",
    )
