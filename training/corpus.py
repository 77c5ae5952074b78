"""What the flow learns from: latents and token ids, computed once and kept in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxPipeline

from training.scenes import SIZES, Scene, scene_of
from training.vae import pixels
from training.vocabulary import clip_tokenizer, t5_tokenizer

# CLIP is causal and read at the first end token: what follows the caption has no effect.
CLIP_TOKENS = 24
CAPTION_DROPOUT = 0.05


@dataclass(frozen=True)
class Batch:
    """B pictures of one size as S packed latents each, with captions of T tokens for T5."""

    # B × S × 64.
    latents: torch.Tensor
    # S × 3.
    positions: torch.Tensor
    # B × CLIP_TOKENS.
    clip_ids: torch.Tensor
    # B × T.
    t5_ids: torch.Tensor


@dataclass(frozen=True)
class Examples:
    """All scenes of one size; scenes that differ only in their wording share their latents."""

    latents: torch.Tensor
    # Which of `latents` belongs to each caption.
    rows: list[int]
    captions: list[str]
    positions: torch.Tensor


class Corpus:
    """The examples of all sizes, and the tokenizers.

    :param first_seed: of the scenes; each process has its own.
    :param cache: a folder that keeps latents from run to run.
    """

    def __init__(self, vae: AutoencoderKL, first_seed: int, scenes: int, cache: Path) -> None:
        self.rng = random.Random(first_seed)
        self.clip, self.t5 = clip_tokenizer(), t5_tokenizer()
        vae.to(memory_format=torch.channels_last)
        self.examples = {}
        for width, height in SIZES:
            path = cache / f"{first_seed}-{width}x{height}-{scenes}.pt"
            if not path.exists():
                torch.save(encode_scenes(vae, (width, height), first_seed, scenes), path)
            self.examples[width, height] = torch.load(path, weights_only=False)

    def batch(self, size: tuple[int, int], count: int, text_tokens: int) -> Batch:
        """Draw random scenes of a size.

        One caption in twenty is empty, so that classifier-free guidance works.
        """
        examples = self.examples[size]
        picks = [self.rng.randrange(len(examples.rows)) for _ in range(count)]
        captions = [
            "" if self.rng.random() < CAPTION_DROPOUT else examples.captions[pick] for pick in picks
        ]
        clip_ids = self.clip(
            captions, padding="max_length", max_length=CLIP_TOKENS, truncation=True
        )
        t5_ids = self.t5(captions, padding="max_length", max_length=text_tokens, truncation=True)
        return Batch(
            examples.latents[[examples.rows[pick] for pick in picks]],
            examples.positions,
            torch.tensor(clip_ids["input_ids"]),
            torch.tensor(t5_ids["input_ids"]),
        )


@torch.no_grad()
def encode_scenes(
    vae: AutoencoderKL, size: tuple[int, int], first_seed: int, scenes: int
) -> Examples:
    """Encode the scenes of consecutive seeds in one size, except the held-out ones."""
    width, height = size
    known: dict[tuple[object, ...], int] = {}
    latents, rows, captions = [], [], []
    for seed in range(first_seed, first_seed + scenes):
        scene = scene_of(seed, width, height)
        if scene.held_out:
            continue
        if scene.content not in known:
            known[scene.content] = len(known)
            latents.append(encode(vae, scene))
        rows.append(known[scene.content])
        captions.append(scene.caption)
    positions = FluxPipeline._prepare_latent_image_ids(
        1, height // 16, width // 16, torch.device("cpu"), torch.float32
    )
    return Examples(torch.cat(latents).float(), rows, captions, positions)


def encode(vae: AutoencoderKL, scene: Scene) -> torch.Tensor:
    """Return a scene's packed latents, 1 × S × 64."""
    picture = pixels([scene]).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        mean = vae.encode(picture).latent_dist.mean.float()
    latents = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return FluxPipeline._pack_latents(latents, 1, 16, *latents.shape[-2:])
