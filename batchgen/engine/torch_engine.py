"""encode → denoise → decode: a group through a composed model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.step_cache import StepCache
from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.denoise import Rows, denoise, draw_noise
from batchgen.engine.device import Device
from batchgen.engine.families.family import Conditions, Family, Schedule, Text
from batchgen.engine.forward_pass import Forward
from batchgen.engine.interface import Compilation, Denoised
from batchgen.engine.modulation import Modulator
from batchgen.engine.offload import Residence
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.vae.decode import Decode, decode_latents
from batchgen.manifest import Picture


def encode_prompts(family: Family, prompts: Sequence[str]) -> Text:
    """Text of the prompts, a row each, in their order.

    The distinct ones go through the text encoders as one batch: a group of pictures of one prompt, or sharing a negative, encodes it once.
    """
    distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
    return family.encode(list(distinct)).rows([distinct[prompt] for prompt in prompts])


@dataclass
class TorchEngine:
    """A composed model on one device; fulfils `Engine`. Denoising and decoding share no state and may run in two threads."""

    identity: str
    family: Family
    modulator: Modulator
    policy: Policy | None
    device: Device
    ranks: Ranks
    attentions: (
        tuple[RanksAttention, RanksAttention] | None
    )  # of text and image, of image alone; where there is more than one rank
    residence: Residence
    vae: Decode
    compiler: Compiler | None = None

    def __post_init__(self) -> None:
        # Decoding need not wait for what another thread has queued of the next group's denoising: that would keep the pictures from being
        # written until it has run, and then the device would wait for the writing.
        self._beside = self.device.stream()

    @property
    def compilation(self) -> Compilation:
        """See `Engine.compilation`."""
        return self.compiler.compilation if self.compiler else Compilation()

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """See `Engine.denoise`."""
        assert len({(picture.width, picture.height, picture.steps) for picture in group}) == 1, (
            "a group shares size and steps"
        )
        return self.device.attempt(lambda: self._denoise(group))

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """See `Engine.decode`."""
        return self.device.attempt(lambda: self._decode(denoised))

    @torch.inference_mode()
    def rehearse(self, size: tuple[int, int], rows: int) -> None:
        """Take so many rows of a size through the transformer once, as a step does: what compiles, compiles here."""
        with self.residence.encoding():
            text = self.family.encode([""]).rows([0] * rows)
        schedule = self.family.schedule(1, *size)
        guidance = torch.ones(rows, device=self.device.kind)
        conditions = self.family.conditions(text, schedule.timesteps, guidance, size)
        latents = self.family.pack(
            torch.zeros(
                rows,
                *self.family.noise_shape(*size),
                device=self.device.kind,
                dtype=self.device.dtype,
            )
        )
        self._forward(conditions, latents, size, None).velocity(latents, 0)

    def close(self) -> None:
        """See `Engine.close`."""
        self.ranks.close()

    @torch.inference_mode()
    def _denoise(self, group: Sequence[Picture]) -> Denoised:
        clock = self.device.clock()
        with self.residence.encoding():
            rows = self._rows(group)
        clock.mark()
        first, size = group[0], (group[0].width, group[0].height)
        schedule = self.family.schedule(first.steps, *size)
        guidance = torch.tensor([picture.guidance for picture in group], device=self.device.kind)[
            rows.owner
        ]
        noise = draw_noise(self.family, group, self.device)
        conditions = self.family.conditions(rows.text, schedule.timesteps, guidance, size)
        cache = self._cache(group, rows, schedule)
        latents = denoise(self._forward(conditions, noise, size, cache), noise, rows, schedule)
        finite = latents.isfinite().flatten(1).all(dim=1)
        clock.mark()
        text_s, denoise_s = clock.laps_s()
        return Denoised(
            latents,
            tuple(finite.tolist()),
            *size,
            text_s,
            denoise_s,
            self.device.peak_bytes(),
            tuple(cache.traces()) if cache else (),
        )

    def _forward(
        self,
        conditions: Conditions,
        latents: Tensor,
        size: tuple[int, int],
        cache: StepCache | None,
    ) -> Forward:
        if self.attentions:
            joint, image = self.attentions
            joint.set_lengths(conditions.text.shape[1], latents.shape[1])
            image.set_lengths(0, latents.shape[1])
        return Forward(self.family, self.modulator, conditions, size, self.ranks, cache)

    def _cache(self, group: Sequence[Picture], rows: Rows, schedule: Schedule) -> StepCache | None:
        if self.policy is None:
            return None
        keys, owner, sigmas = (
            [picture.key for picture in group],
            rows.owner.tolist(),
            schedule.sigmas.tolist(),
        )
        return StepCache(self.policy, len(self.family.blocks), keys, owner, sigmas, self.ranks)

    def _rows(self, group: Sequence[Picture]) -> Rows:
        """A row a picture, and one more for each with classifier-free guidance."""
        scales = {
            row: scale
            for row, picture in enumerate(group)
            if (scale := self.family.cfg_scale(picture)) > 1
        }
        text = encode_prompts(
            self.family,
            [*(p.prompt for p in group), *(group[row].negative_prompt for row in scales)],
        )
        owner = torch.tensor([*range(len(group)), *scales], device=self.device.kind)
        return Rows(owner, torch.tensor(list(scales.values()), device=self.device.kind), text)

    @torch.inference_mode()
    def _decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        with torch.cuda.stream(self._beside):
            clock = self.device.clock()
            pixels = decode_latents(
                self.family, self.vae, denoised.latents, denoised.width, denoised.height, self.ranks
            )
            clock.mark()
            return pixels, sum(clock.laps_s())
