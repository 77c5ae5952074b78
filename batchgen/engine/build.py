"""Composes the engine: the techniques in the one order that is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Denoised
from batchgen.engine.attention import choose_attention, fuse_projections, install_attention
from batchgen.engine.denoise import Rows, denoise, draw_noise
from batchgen.engine.device import Device, choose_device
from batchgen.engine.encode import encode_prompts
from batchgen.engine.family import Family, load_family
from batchgen.engine.forward import Forward
from batchgen.engine.lora import fuse_lora
from batchgen.engine.modulation import Modulator, hoist_modulations
from batchgen.engine.vae import decode_latents
from batchgen.job import Job
from batchgen.manifest import Picture


def build_engine(job: Job, checkpoint: Checkpoint) -> TorchEngine:
    """Load the model and make it what the job asks for, on the device the job asks for.

    :raises JobError: the device is not there.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    device = choose_device(job.engine, job.precision.linear)
    family = device.attempt(lambda: load_family(checkpoint, device, job.model.max_sequence_length))

    # LoRAs first: they are stated against the trained weights, under the trained names, in the trained precision. Whatever follows moves
    # linears (modulations), renames them (fused q/k/v), rounds them (quantization) or has read them already (compilation).
    for lora in job.model.lora:
        fuse_lora(family.lora_targets(), Path(lora.path).expanduser(), lora.scale)
    # Modulations leave the blocks before the blocks' linears are counted and quantized: they stay in the trained precision.
    modulator = hoist_modulations(family.blocks)
    # q, k and v become one matrix, so that their input is quantized once and not three times.
    fuse_projections(family.blocks)
    # Attention must be final before anything is traced.
    attend, kernel = choose_attention(job.engine.attention, device.kind)
    install_attention(family.blocks, attend)
    return TorchEngine(family, modulator, device, f"{device.identity} attention={kernel}")


class TorchEngine:
    """encode → denoise → decode on one device; fulfils `Engine`. Denoising and decoding share no state and may run in two threads."""

    def __init__(self, family: Family, modulator: Modulator, device: Device, identity: str) -> None:
        self.identity = identity
        self._family, self._modulator, self._device = family, modulator, device

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """See `Engine.denoise`."""
        assert len({(picture.width, picture.height, picture.steps) for picture in group}) == 1, "a group shares size and steps"
        return self._device.attempt(lambda: self._denoise(group))

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """See `Engine.decode`."""
        return self._device.attempt(lambda: self._decode(denoised))

    @torch.inference_mode()
    def _denoise(self, group: Sequence[Picture]) -> Denoised:
        clock = self._device.clock()
        rows = self._rows(group)
        clock.mark()
        first, size = group[0], (group[0].width, group[0].height)
        schedule = self._family.schedule(first.steps, *size)
        guidance = torch.tensor([picture.guidance for picture in group], device=self._device.kind)[rows.owner]
        conditions = self._family.conditions(rows.text, schedule.timesteps.to(self._device.dtype), guidance, size)
        forward = Forward(self._family, self._modulator, conditions, size)
        latents = denoise(forward, draw_noise(self._family, group, self._device), rows, schedule)
        finite = latents.isfinite().flatten(1).all(dim=1)
        clock.mark()
        text_s, denoise_s = clock.laps_s()
        return Denoised(latents, tuple(finite.tolist()), *size, text_s, denoise_s, self._device.peak_bytes())

    def _rows(self, group: Sequence[Picture]) -> Rows:
        """A row a picture, and one more for each with classifier-free guidance."""
        scales = {row: scale for row, picture in enumerate(group) if (scale := self._family.cfg_scale(picture)) > 1}
        text = encode_prompts(self._family, [*(p.prompt for p in group), *(group[row].negative_prompt for row in scales)])
        owner = torch.tensor([*range(len(group)), *scales], device=self._device.kind)
        return Rows(owner, torch.tensor(list(scales.values()), device=self._device.kind), text)

    @torch.inference_mode()
    def _decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        clock = self._device.clock()
        pixels = decode_latents(self._family, denoised.latents, denoised.width, denoised.height)
        clock.mark()
        return pixels, sum(clock.laps_s())
