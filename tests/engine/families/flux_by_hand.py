"""The embedded model, its stages called one by one through diffusers' own modules.

So a cache can be put into the stack of its blocks without the engine.

Legend: B pictures, R rows, T image tokens, C channels of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from diffusers import FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor

from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.families.family import Tokens
from batchgen.engine.interface import Trace
from batchgen.engine.parallel.collectives import Ranks
from batchgen.model import TINY
from tests.support.stock import TEXT_TOKENS
from training.scenes import scenes_from

PROMPTS = [scene.caption for scene in islice(scenes_from(0, held_out=True), 16)]
# Tokens along a side of a picture of 128 px.
SIDE = 8


@dataclass(frozen=True)
class Painted:
    # [B, T, C].
    latents: Tensor
    traces: list[Trace]

    @property
    def skipped(self) -> list[str]:
        return [trace.skipped for trace in self.traces]

    @property
    def share(self) -> float:
        """The share of steps that were skipped."""
        letters = "".join(self.skipped)
        return letters.count("1") / len(letters)


@dataclass
class FluxByHand:
    """The embedded model, painting."""

    steps: int = 28
    # Shift of the noise levels. The default is that of a 128 px picture.
    shift: float = field(default_factory=lambda: calculate_shift(SIDE**2))
    pipeline: Any = field(
        default_factory=lambda: FluxPipeline.from_pretrained(
            TINY, dtype=torch.float32, use_safetensors=True
        )
    )

    def __post_init__(self) -> None:
        self.model = self.pipeline.transformer.eval()
        self.blocks = [*self.model.transformer_blocks, *self.model.single_transformer_blocks]
        self.pipeline.scheduler.set_timesteps(
            sigmas=np.linspace(1, 1 / self.steps, self.steps), mu=self.shift
        )
        self.sigmas = self.pipeline.scheduler.sigmas.tolist()

    @torch.inference_mode()
    def paint(
        self,
        policy: Policy | None,
        keys: Sequence[int] = (0,),
        *,
        contrasted: Sequence[int] = (),
        gaps: Sequence[float] | None = None,
    ) -> Painted:
        """Paint pictures. Prompt, seed and guidance follow from a picture's key.

        :param contrasted: places of the pictures that have a negative prompt.
        :param gaps: the noise levels that the cache is told.
        """
        owner = [*range(len(keys)), *contrasted]
        words = [PROMPTS[key % len(PROMPTS)] for key in keys]
        words += ["three green stars on a white background"] * len(contrasted)
        text, pooled, _ = self.pipeline.encode_prompt(words, None, max_sequence_length=TEXT_TOKENS)
        guidance = torch.tensor([2.0 + keys[picture] / 4 for picture in owner])
        text, rotary = self.model.context_embedder(text), self._rotary()
        draws = [torch.Generator().manual_seed(1000 + key) for key in keys]
        latents = torch.stack([torch.randn(SIDE**2, 64, generator=draw) for draw in draws])
        cache = policy and StepCache(
            policy, len(self.blocks), keys, owner, gaps or self.sigmas, Ranks()
        )
        for step in range(self.steps):
            time = torch.full((len(owner),), self.sigmas[step] * 1000)
            temb = self.model.time_text_embed(time, guidance * 1000, pooled)

            def run(
                first: int, last: int, tokens: Tokens, rows: Tensor | None, temb: Tensor = temb
            ) -> Tokens:
                some = temb if rows is None else temb[rows]
                for block in self.blocks[first:last]:
                    text, image = block(tokens.image, tokens.text, some, rotary)
                    tokens = Tokens(image, text)
                return tokens

            def modulated(image: Tensor, temb: Tensor = temb) -> Tensor:
                signal: Tensor = self.model.transformer_blocks[0].norm1(image, emb=temb)[0]
                return signal

            tokens = Tokens(self.model.x_embedder(latents[owner]), text)
            if cache:
                image = cache.step(step, tokens, run, modulated)
            else:
                image = run(0, len(self.blocks), tokens, None).image
            velocity = self.model.proj_out(self.model.norm_out(image, temb))
            mine, negative = velocity[: len(keys)].clone(), velocity[len(keys) :]
            mine[list(contrasted)] = negative + 2.5 * (mine[list(contrasted)] - negative)
            latents = latents + (self.sigmas[step + 1] - self.sigmas[step]) * mine
        return Painted(latents, cache.traces() if cache else [])

    def _rotary(self) -> Any:
        ids = torch.zeros(SIDE, SIDE, 3)
        ids[..., 1], ids[..., 2] = torch.arange(SIDE)[:, None], torch.arange(SIDE)
        return self.model.pos_embed(torch.cat([torch.zeros(TEXT_TOKENS, 3), ids.reshape(-1, 3)]))

    @torch.inference_mode()
    def pixels(self, latents: Tensor) -> Tensor:
        """[B, T, C] → [B, 3, 128, 128], 0 … 1."""
        vae = self.pipeline.vae
        patches = latents.view(-1, SIDE, SIDE, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
        unpacked = patches.reshape(-1, 16, 2 * SIDE, 2 * SIDE)
        scaled = unpacked / vae.config.scaling_factor + vae.config.shift_factor
        decoded: Tensor = vae.decode(scaled).sample
        return (decoded / 2 + 0.5).clamp(0, 1)
