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

CLIP_TOKENS = 24  # causal, and read at the first end: what follows the caption has no effect
CAPTION_DROPOUT = 0.05


@dataclass(frozen=True)
class Batch:
    """B pictures of one size: S packed latents of 64 channels, and the ids of the captions."""

    latents: torch.Tensor  # B × S × 64
    positions: torch.Tensor  # S × 3
    clip_ids: torch.Tensor  # B × CLIP_TOKENS
    t5_ids: torch.Tensor  # B × T


@dataclass(frozen=True)
class Shelf:
    """All scenes of one size; scenes that differ only in their wording share their latents."""

    latents: torch.Tensor
    rows: list[int]
    captions: list[str]
    positions: torch.Tensor


class Corpus:
    """Shelves by size, and the tokenizers; each process has its own scenes."""

    def __init__(self, vae: AutoencoderKL, first_seed: int, scenes: int, cache: Path) -> None:
        self.rng = random.Random(first_seed)
        self.clip, self.t5 = clip_tokenizer(), t5_tokenizer()
        vae.to(memory_format=torch.channels_last)
        self.shelves = {}
        for width, height in SIZES:
            path = cache / f"{first_seed}-{width}x{height}-{scenes}.pt"
            if not path.exists():
                torch.save(shelve(vae, (width, height), first_seed, scenes), path)
            self.shelves[width, height] = torch.load(path, weights_only=False)

    def batch(self, size: tuple[int, int], count: int, text_tokens: int) -> Batch:
        """Random scenes of a size; one caption in twenty is empty, for true CFG."""
        shelf = self.shelves[size]
        picks = [self.rng.randrange(len(shelf.rows)) for _ in range(count)]
        captions = [
            "" if self.rng.random() < CAPTION_DROPOUT else shelf.captions[pick] for pick in picks
        ]
        clip_ids = self.clip(
            captions, padding="max_length", max_length=CLIP_TOKENS, truncation=True
        )
        t5_ids = self.t5(captions, padding="max_length", max_length=text_tokens, truncation=True)
        return Batch(
            shelf.latents[[shelf.rows[pick] for pick in picks]],
            shelf.positions,
            torch.tensor(clip_ids["input_ids"]),
            torch.tensor(t5_ids["input_ids"]),
        )


@torch.no_grad()
def shelve(vae: AutoencoderKL, size: tuple[int, int], first_seed: int, scenes: int) -> Shelf:
    """The scenes of consecutive seeds in one size, less the held-out ones."""
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
    return Shelf(torch.cat(latents).float(), rows, captions, positions)


def encode(vae: AutoencoderKL, scene: Scene) -> torch.Tensor:
    """A scene's packed latents, 1 × S × 64."""
    picture = pixels([scene]).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        mean = vae.encode(picture).latent_dist.mean.float()
    latents = (mean - vae.config.shift_factor) * vae.config.scaling_factor
    return FluxPipeline._pack_latents(latents, 1, 16, *latents.shape[-2:])
