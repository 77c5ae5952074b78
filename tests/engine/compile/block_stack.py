"""A stack of blocks small enough to reason about, nonlinear enough to be no exception, and a denoising loop around it.

Legend: B pictures, R rows, T image tokens, S text tokens, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.step_cache import StepCache
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


@dataclass(frozen=True)
class Tokens:
    image: Tensor  # [R, T, D]
    text: Tensor  # [R, S, D]

    def rows(self, index: Tensor) -> "Tokens":
        return Tokens(self.image[index], self.text[index])


class BlockStack:
    """Tokens are mixed with their row's text, rows never with each other; `calls` remembers what was asked for."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        torch.manual_seed(0)
        self.weights = torch.randn(BLOCKS, WIDTH, WIDTH, dtype=dtype) * 0.35
        self.calls: list[tuple[int, int, list[int] | None]] = []

    def runner(self, modulation: Tensor) -> Callable[[int, int, Tokens, Tensor | None], Tokens]:
        """:param modulation: [R, D], this step's."""

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
        """Latents [B, T, D], of this rank's tokens, and what was skipped. All of a picture follows from its key.

        :param contrasted: places of pictures that have a second row, with another text.
        :param share: of the image tokens, this rank's are denoised.
        :param poison: what befalls the latents before each step.
        """
        owner = [*range(len(keys)), *contrasted]
        cache = policy and StepCache(policy, BLOCKS, keys, owner, SIGMAS, ranks)
        latents = share.split(torch.stack([_noise(key, IMAGE) for key in keys])).to(
            self.weights.dtype
        )
        signs = [1.0] * len(keys) + [-1.0] * len(contrasted)
        text = torch.stack(
            [
                sign * _noise(100 + keys[owned], TEXT)
                for owned, sign in zip(owner, signs, strict=True)
            ]
        ).to(latents.dtype)
        for step in range(STEPS):
            latents = poison(step, latents)
            modulation = torch.outer(
                torch.tensor([keys[owned] for owned in owner]).sin() + 2,
                torch.full((WIDTH,), SIGMAS[step] * 2).sin(),
            ).to(latents.dtype)
            tokens, run = (
                Tokens(latents[owner] * 0.5, text),
                self.runner(modulation.expand(-1, WIDTH).to(latents.dtype)),
            )
            image = (
                cache.step(step, tokens, run, lambda image: image * 2)
                if cache
                else run(0, BLOCKS, tokens, None).image
            )
            velocity = torch.zeros_like(latents).index_add(0, torch.tensor(owner), image)
            latents = latents + (SIGMAS[step + 1] - SIGMAS[step]) * velocity
        return latents, cache.traces() if cache else []


def _noise(key: int, tokens: int) -> Tensor:
    return torch.randn(tokens, WIDTH, generator=torch.Generator().manual_seed(key))


def denoise_share(
    ranks: Ranks, disturbed: bool, cache: dict[str, Any]
) -> tuple[Tensor, list[Trace]]:
    """What a rank does; the latents are gathered. `disturbed`: what the ranks measure differs, as by rounding, only more."""
    if disturbed:
        measured, factors = ranks.sum, torch.tensor([[1.0 + ranks.rank], [1.0]])
        ranks.sum = lambda sums: measured(sums) * factors  # type: ignore[method-assign]
    latents, traces = BlockStack().denoise(policy_of(**cache), [1, 2, 3], ranks=ranks, share=ranks)
    return ranks.gather(latents, IMAGE), traces
