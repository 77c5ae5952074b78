"""A group through a composed model: encode → denoise → decode.

Legend: B pictures of a group, R rows of a transformer call (`denoise.Rows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from batchgen.engine.attention.lengths import Lengths
from batchgen.engine.cache.policy import Policy
from batchgen.engine.cache.probe import Probe
from batchgen.engine.cache.products import Products
from batchgen.engine.cache.velocities import Velocities
from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.denoise import Rows, denoise, draw_noise
from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Family, Schedule, Text
from batchgen.engine.forward_pass import Forward
from batchgen.engine.interface import Compilation, Denoised, Scored
from batchgen.engine.offload.residence import Residence
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.halves import Halves
from batchgen.engine.score import Scorer
from batchgen.engine.vae.decode import Decode, decode_latents
from batchgen.manifest import Picture


@dataclass
class TorchEngine:
    """A composed model on one device; fulfils `Engine`.

    Denoising and decoding share no state, so that they may run in two threads.
    """

    identity: str
    family: Family
    modulator: nn.Module
    policy: Policy | None
    device: Device
    ranks: Ranks
    # What the blocks' attention reads of a group.
    lengths: Lengths
    residence: Residence
    vae: Decode
    compiler: Compiler | None = None
    # Whether the velocities of pictures without a cache are recorded.
    records: bool = False
    # What scores the pictures; None: nothing does.
    scorer: Scorer | None = None

    def __post_init__(self) -> None:
        # Decoding need not wait for the denoising that another thread has queued. If it did, the
        # pictures would be written late, and then the device would wait for the writing.
        self._decoding = self.device.stream()

    @property
    def compilation(self) -> Compilation:
        """See `Engine.compilation`."""
        return self.compiler.compilation if self.compiler else Compilation()

    def denoise(self, group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        """See `Engine.denoise`."""
        shapes = {(picture.width, picture.height, picture.steps) for picture in group}
        assert len(shapes) == 1, "a group shares size and steps"
        return self.device.attempt(lambda: self._denoise(group, cached=cached))

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """See `Engine.decode`."""
        return self.device.attempt(lambda: self._decode(denoised))

    def score(
        self, pixels: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]
    ) -> list[Scored]:
        """See `Engine.score`."""
        scorer = self.scorer
        assert scorer is not None, "the job names no scorer"

        def score() -> list[Scored]:
            with torch.cuda.stream(self._decoding):
                return scorer(pixels, prompts)

        return self.device.attempt(score)

    def close(self) -> None:
        """See `Engine.close`."""
        self.ranks.close()

    @torch.inference_mode()
    def rehearse(self, size: tuple[int, int], rows: int) -> None:
        """Take rows of zeros through the transformer once, as a step does, so that it compiles.

        :param size: (width, height) in pixels.
        :param rows: of this half of the replica.
        """
        with self.residence.encoding():
            text = self.family.encode([""]).rows([0] * rows)
        # Two steps: some schedulers cannot put one step between their ends.
        schedule, guidance = self.family.schedule(2, *size), self._tensor([1.0] * rows)
        conditions = self.family.conditions(text, schedule.timesteps, guidance, size)
        dtype = self.family.latents_dtype or self.device.dtype
        noise = torch.zeros(rows, *self.family.noise_shape(*size), dtype=dtype)
        latents = self.family.pack(noise.to(self.device.kind))
        # Halves compile apart: their ranks, and therefore their graphs, differ.
        alone = Halves(Ranks(), rows)
        self._forward(conditions, size, None, alone).velocity(latents, 0)
        # Other numbers of rows may be tried next, and theirs have no lengths.
        self.lengths.own = None

    @torch.inference_mode()
    def _denoise(self, group: Sequence[Picture], *, cached: bool) -> Denoised:
        clock = self.device.clock()
        with self.residence.encoding():
            rows, halves = self._rows(group)
        clock.mark()
        size = group[0].width, group[0].height
        schedule = self.family.schedule(group[0].steps, *size)
        guidance = self._tensor([group[rows.owner[row]].guidance for row in halves.held])
        noise = draw_noise(self.family, group, self.device)
        conditions = self.family.conditions(rows.text, schedule.timesteps, guidance, size)
        probe = self._probe(rows, halves) if cached else None
        forward = self._forward(conditions, size, probe, halves)
        velocities = self._velocities(group, noise, schedule) if cached else None
        products = Products(schedule.sigmas.tolist()) if self.records else None
        latents = denoise(forward, noise, rows, schedule, velocities, products)
        watched = velocities or products
        finite = latents.isfinite().flatten(1).all(dim=1)
        clock.mark()
        # Here the host waits for the group, and then it knows the laps too.
        verdict = tuple(finite.tolist())
        text_s, denoise_s = clock.laps_s()
        return Denoised(
            latents,
            verdict,
            *size,
            text_s,
            denoise_s,
            self.device.peak_bytes(),
            tuple(watched.traces()) if watched else (),
        )

    def _rows(self, group: Sequence[Picture]) -> tuple[Rows, Halves]:
        """One row a picture, and one more for each picture with classifier-free guidance.

        Also who computes which of them.
        """
        all_scales = [self.family.cfg_scale(picture) for picture in group]
        scales = {row: scale for row, scale in enumerate(all_scales) if scale > 1}
        prompts = [picture.prompt for picture in group]
        prompts += [group[row].negative_prompt for row in scales]
        owner = [*range(len(group)), *scales]
        halves = Halves(self.ranks, len(owner))
        text = self._encode([prompts[row] for row in halves.held])
        index, factors = self._tensor(owner), self._tensor(list(scales.values()))
        return Rows(owner, index, factors, text, self.family.renormalised), halves

    def _encode(self, prompts: Sequence[str]) -> Text:
        """Text of the prompts, one row each, in their order.

        The distinct prompts go through the text encoders as one batch: a prompt or a negative
        prompt that pictures of a group share is encoded once.
        """
        distinct = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        return self.family.encode(list(distinct)).rows([distinct[prompt] for prompt in prompts])

    def _forward(
        self, conditions: Conditions, size: tuple[int, int], probe: Probe | None, halves: Halves
    ) -> Forward:
        family, ranks = self.family, self.ranks.half
        return Forward(family, self.modulator, conditions, size, ranks, probe, self.lengths, halves)

    def _probe(self, rows: Rows, halves: Halves) -> Probe | None:
        if self.policy is None or self.policy.signal is None:
            return None
        return Probe(self.policy.signal, rows.owner, self.ranks, halves)

    def _velocities(
        self, group: Sequence[Picture], noise: Tensor, schedule: Schedule
    ) -> Velocities | None:
        if self.policy is None:
            return None
        return Velocities(self.policy, group, noise, schedule.sigmas.tolist())

    def _tensor(self, values: Sequence[float]) -> Tensor:
        return upload(values, self.device.kind)

    @torch.inference_mode()
    def _decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        size = denoised.width, denoised.height
        with torch.cuda.stream(self._decoding):
            clock = self.device.clock()
            pixels = decode_latents(self.family, self.vae, denoised.latents, *size, self.ranks)
            clock.mark()
            return pixels, sum(clock.laps_s())
