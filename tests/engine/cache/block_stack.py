"""A small stack of nonlinear blocks, and a denoising loop around it.

Legend: B pictures, R rows, T image tokens, S text tokens, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.step_cache import RunBlocks, StepCache
from batchgen.engine.families.family import Tokens
from batchgen.engine.interface import Trace
from batchgen.engine.parallel.collectives import Ranks
from batchgen.settings.job import parse_job

BLOCKS, STEPS, TEXT, WIDTH = 5, 24, 3, 16
IMAGE = 10  # tokens
ALONE = Ranks()
SIGMAS = [(1 - step / STEPS) ** 0.7 for step in range(STEPS + 1)]


def policy_of(**cache: object) -> Policy:
    """The policy of a job file with this `[cache]`, for a FLUX of `BLOCKS` blocks."""
    policy = make_policy(parse_job({"cache": cache}, "a test").cache, "flux", BLOCKS)
    assert policy is not None
    return policy


class BlockStack:
    """Blocks that mix tokens with their row's text, and never one row with another.

    `calls` lists the blocks and rows that were computed: first, last, rows.
    """

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.weights = torch.randn(BLOCKS, WIDTH, WIDTH, dtype=dtype) * 0.35
        self.calls: list[tuple[int, int, list[int] | None]] = []

    def runner(self, modulation: Tensor) -> RunBlocks:
        """What computes blocks of this stack.

        :param modulation: [R, D], of this step.
        """

        def run(first: int, last: int, tokens: Tokens, rows: Tensor | None) -> Tokens:
            self.calls.append((first, last, None if rows is None else rows.tolist()))
            mine = (modulation if rows is None else modulation[rows])[:, None]
            for weight in self.weights[first:last]:
                context = tokens.text.mean(1, keepdim=True)
                image = tokens.image + torch.tanh((tokens.image + context) @ weight + mine)
                tokens = Tokens(image, tokens.text + 0.1 * torch.tanh(tokens.text @ weight))
            return tokens

        return run

    def denoise(
        self,
        policy: Policy | None,
        keys: Sequence[int],
        contrasted: Sequence[int] = (),
        ranks: Ranks = ALONE,
        share: Ranks = ALONE,
        poison: Callable[[int, Tensor], Tensor] = lambda _, latents: latents,
    ) -> tuple[Tensor, list[Trace]]:
        """Latents [B, T, D] of this rank's tokens, and traces. A picture follows from its key.

        :param contrasted: places of pictures that have a second row, with another text.
        :param share: this rank's share of the image tokens is denoised.
        :param poison: changes the latents before each step.
        """
        owner = [*range(len(keys)), *contrasted]
        cache = policy and StepCache(policy, BLOCKS, keys, owner, SIGMAS, ranks)
        latents = share.split(torch.stack([_noise(key, IMAGE) for key in keys]))
        latents = latents.to(self.weights.dtype)
        signs = [1.0] * len(keys) + [-1.0] * len(contrasted)
        texts = [s * _noise(100 + keys[own], TEXT) for own, s in zip(owner, signs, strict=True)]
        text = torch.stack(texts).to(latents.dtype)
        own_factor = torch.tensor([keys[picture] for picture in owner]).sin() + 2
        for step in range(STEPS):
            latents = poison(step, latents)
            step_factor = torch.full((WIDTH,), SIGMAS[step] * 2).sin()
            run = self.runner(torch.outer(own_factor, step_factor).to(latents.dtype))
            tokens = Tokens(latents[owner] * 0.5, text)
            if cache:
                image = cache.step(step, tokens, run, lambda image: image * 2)
            else:
                image = run(0, BLOCKS, tokens, None).image
            velocity = torch.zeros_like(latents).index_add(0, torch.tensor(owner), image)
            latents = latents + (SIGMAS[step + 1] - SIGMAS[step]) * velocity
        return latents, cache.traces() if cache else []


def _noise(key: int, tokens: int) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(key))


def denoise_share(
    ranks: Ranks, disturbed: bool, cache: dict[str, Any]
) -> tuple[Tensor, list[Trace]]:
    """Denoise this rank's tokens, and gather the latents.

    :param disturbed: let every rank measure other sums, as rounding does, only more so.
    """
    if disturbed:
        measured, factors = ranks.sum, torch.tensor([[1.0 + ranks.rank], [1.0]])
        ranks.sum = lambda sums: measured(sums) * factors
    latents, traces = BlockStack().denoise(policy_of(**cache), [1, 2, 3], ranks=ranks, share=ranks)
    return ranks.gather(latents, IMAGE), traces
