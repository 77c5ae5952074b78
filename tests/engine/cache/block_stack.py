"""A small stack of nonlinear blocks, and the engine's own denoising loop around it.

Legend: B pictures, R rows, T image tokens, S text tokens, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from batchgen.engine.attention.lengths import Lengths
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.probe import Probe
from batchgen.engine.cache.velocities import Velocities
from batchgen.engine.denoise import Rows, denoise
from batchgen.engine.families.family import Conditions, Schedule, Text
from batchgen.engine.forward_pass import Forward
from batchgen.engine.interface import Trace
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves
from batchgen.settings.job import parse_job
from tests.support.specimens import picture

BLOCKS, STEPS, TEXT, WIDTH = 5, 24, 4, 16
IMAGE = 10  # tokens
ALONE = Ranks()
SIGMAS = [(1 - step / STEPS) ** 0.7 for step in range(STEPS + 1)]


def policy_of(**cache: object) -> Policy:
    """The policy of a job file with this `[cache]`, for a FLUX of `BLOCKS` blocks."""
    policy = make_policy(parse_job({"cache": cache}, "a test").cache, "flux", BLOCKS)
    assert policy is not None
    return policy


class BlockStack:
    """A family whose blocks mix tokens with their row's text, and never one row with another.

    `calls` lists what was computed: the block's number, or "embed" or "head", and how many rows.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.blocks = torch.randn(BLOCKS, WIDTH, WIDTH, dtype=dtype) * 0.35
        self.calls: list[tuple[int | str, int]] = []
        # Changes the latents of a step, [R, T, D].
        self.poison: Callable[[int, Tensor], Tensor] = lambda _, latents: latents

    def embed(self, latents: Tensor, _: tuple[int, int]) -> Tensor:
        step = sum(call == "embed" for call, _ in self.calls)
        self.calls.append(("embed", len(latents)))
        return self.poison(step, latents) * 0.5

    def block(
        self, index: int, image: Tensor, text: Tensor, modulation: Tensor, _: None
    ) -> tuple[Tensor, Tensor]:
        self.calls.append((index, len(image)))
        weight, context = self.blocks[index], text[:, :1]
        image = image + torch.tanh((image + context) @ weight + modulation[:, None])
        return image, text + 0.1 * torch.tanh(text @ weight)

    def modulated(self, image: Tensor, _: Tensor) -> Tensor:
        return image * 2

    def head(self, image: Tensor, _: Tensor) -> Tensor:
        self.calls.append(("head", len(image)))
        return image

    def denoise(
        self,
        policy: Policy | None,
        keys: Sequence[int],
        contrasted: Sequence[int] = (),
        ranks: Ranks = ALONE,
        share: Ranks = ALONE,
    ) -> tuple[Tensor, list[Trace]]:
        """Latents [B, T, D] and traces. A picture follows from its key.

        :param contrasted: places of pictures that have a second row, with another text.
        :param ranks: what shares the tokens.
        :param share: only this rank's share of the image tokens is denoised.
        """
        self.calls.clear()
        owner = [*range(len(keys)), *contrasted]
        noise = share.split(torch.stack([_noise(key, IMAGE) for key in keys]))
        noise = noise.to(self.blocks.dtype)
        signs = [1.0] * len(keys) + [-1.0] * len(contrasted)
        # The tokens of a text are equal, so that every rank's share has them all.
        texts = [s * _noise(100 + keys[own], 1) for own, s in zip(owner, signs, strict=True)]
        text = torch.stack(texts).expand(-1, TEXT, -1).to(noise.dtype)
        own_factor = torch.tensor([keys[picture] for picture in owner]).sin() + 2
        step_factors = torch.tensor([[level * 2] * WIDTH for level in SIGMAS[:-1]]).sin()
        temb = (own_factor[None, :, None] * step_factors[:, None]).to(noise.dtype)
        scales = torch.full((len(contrasted),), 1.5)
        rows = Rows(owner, torch.tensor(owner), scales, Text(text, text))
        signal = policy.signal if policy else None
        halves = Halves(ranks, len(owner))
        probe = Probe(signal, owner, ranks, halves) if signal else None
        family: Any = self
        every_block: Any = lambda temb: [temb] * BLOCKS  # noqa: E731
        conditions = Conditions(text, temb, None)
        forward = Forward(
            family, every_block, conditions, (0, 0), ranks.half, probe, Lengths(), halves
        )
        pictures = [picture(key) for key in keys]
        velocities = Velocities(policy, pictures, noise, SIGMAS) if policy else None
        schedule = Schedule(torch.tensor(SIGMAS), torch.tensor(SIGMAS[:-1]))
        latents = denoise(forward, noise, rows, schedule, velocities)
        return latents, velocities.traces() if velocities else []


def _noise(key: int, tokens: int) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(key))


def denoise_share(
    ranks: Ranks, disturbed: bool, cache: dict[str, Any]
) -> tuple[Tensor, list[Trace]]:
    """Denoise over the ranks.

    :param disturbed: let every rank measure other sums, as rounding does, only more so.
    """
    if disturbed:
        measured, factors = ranks.sum, torch.tensor([[1.0 + ranks.rank], [1.0]])
        ranks.sum = lambda sums: measured(sums) * factors
    return BlockStack().denoise(policy_of(**cache), [1, 2, 3], ranks=ranks)
