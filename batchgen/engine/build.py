"""Composes the engine: the techniques in the one order that is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Denoised
from batchgen.engine.denoise import Contrast, denoise
from batchgen.engine.device import Device, choose_device
from batchgen.engine.encode import encode_prompts
from batchgen.engine.family import Family, load_family
from batchgen.engine.lora import fuse_lora
from batchgen.engine.vae import decode_latents
from batchgen.job import Job
from batchgen.manifest import Picture


def build_engine(job: Job, checkpoint: Checkpoint) -> TorchEngine:
    """Load the model and make it what the job asks for, on the device the job asks for.

    :raises JobError: the device is not there.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    device = choose_device(job.engine)
    family = device.attempt(lambda: load_family(checkpoint, device, job.model.max_sequence_length))

    # Fuse LoRAs first: they are stated against the trained weights, under the trained names, in the trained precision. Whatever follows
    # renames linears (fused q/k/v), rounds them (quantization), splits what they see (parallelism) or has read them already (compilation).
    for lora in job.model.lora:
        fuse_lora(family.lora_targets(), Path(lora.path).expanduser(), lora.scale)

    # Then, in this order, as they arrive: fuse q/k/v (one matrix to quantize, not three) → quantize (the compiler must see the final
    # kernels) → parallelize (attention must be final before anything is traced) → compile the blocks → wrap with the cache (its branch
    # must stay outside the compiled blocks) → warm (every shape of the plan, before a group is timed).
    return TorchEngine(family, device)


class TorchEngine:
    """encode → denoise → decode on one device; fulfils `Engine`. Denoising and decoding share no state and may run in two threads."""

    def __init__(self, family: Family, device: Device) -> None:
        self.identity = device.identity
        self._family, self._device = family, device

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
        scales = {row: scale for row, picture in enumerate(group) if (scale := self._family.cfg_scale(picture)) > 1}
        text, negative = encode_prompts(self._family, [p.prompt for p in group], [group[row].negative_prompt for row in scales])
        contrast = None
        if negative is not None:
            rows, weights = torch.tensor(list(scales)), torch.tensor(list(scales.values()))
            contrast = Contrast(rows.to(self._device.kind), weights.to(self._device.kind), negative)
        clock.mark()
        latents = denoise(self._family, group, text, contrast, self._device)
        finite = latents.isfinite().flatten(1).all(dim=1)
        clock.mark()
        text_s, denoise_s = clock.laps_s()
        first = group[0]
        return Denoised(latents, tuple(finite.tolist()), first.width, first.height, text_s, denoise_s, self._device.peak_bytes())

    @torch.inference_mode()
    def _decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        clock = self._device.clock()
        pixels = decode_latents(self._family, denoised.latents, denoised.width, denoised.height)
        clock.mark()
        return pixels, sum(clock.laps_s())
