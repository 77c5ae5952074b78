"""The contenders: each makes the same pictures from the same seeds and writes a tar of JPEGs.

    Diffusers   stock FluxPipeline, with one of diffusers' own caches
    CacheDit    the same pipeline, with cache-dit, first block only (F1B0), and its calibrators
    Batchgen    its engine, its pipeline (writing goes on while the next group is denoised)

Tar and JPEG code is batchgen's for all of them, so that it makes no difference, and on a CPU every
VAE runs in channels last, where it is faster. The caches of peers: `peer_caches.py`.
"""

from __future__ import annotations

import functools
import itertools
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from batchgen.engine.build import LoadFamily, build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import SKIPPED
from batchgen.engine.device import Device
from batchgen.engine.families import load_family
from batchgen.engine.interface import Workload
from batchgen.fidelity import Pixels
from batchgen.manifest import Picture
from batchgen.model.checkpoint import Checkpoint
from batchgen.run.directory import RunDirectory
from batchgen.settings.job import Cache, Job, Output
from batchgen.shard.escalation import Task
from batchgen.shard.partial_shard import PartialShard
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.renderer import Made, Renderer
from batchgen.worker.samples import encode_image, sample
from benchmarks.peer_caches import cache_dit_settings, diffusers_cache, mag_ratios


@dataclass(frozen=True, slots=True)
class Skip:
    """What skips steps, in the words of the contender's own project; nothing by default."""

    # A policy of batchgen, or a cache of the peer.
    how: str = "none"
    # Its threshold or tolerance, or every how many steps it computes.
    value: float = 0.0
    # The steps that are computed, for batchgen's "schedule", and for cache-dit in place of a value.
    computed: tuple[int, ...] = ()

    def __str__(self) -> str:
        steps = " ".join(map(str, self.computed))
        if steps:
            return f"{self.how} [{steps}]"
        return f"{self.how} {self.value:g}" if self.value else self.how

    def computes(self, steps: int) -> list[bool]:
        """Whether each of so many steps is computed; an empty list if no steps are given."""
        return [step in self.computed for step in range(steps)] if self.computed else []


@dataclass
class Result:
    """What some pictures took. Seconds of stages are the device's, summed over groups."""

    pixels: dict[int, Pixels] = field(default_factory=dict)  # by key
    wall_s: float = 0.0  # to the last byte in the tar
    cpu_s: float = 0.0  # of all the process's threads meanwhile
    text_s: float = 0.0
    denoise_s: float = 0.0
    decode_s: float = 0.0
    skipped: float = 0.0  # share of the steps
    peak_bytes: int = 0

    @property
    def device_s(self) -> float:
        """What the device did, one stage after the other."""
        return self.text_s + self.denoise_s + self.decode_s


class Watch:
    """Started when it is made."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def seconds(self) -> tuple[float, float]:
        """Wall time, and CPU time of this process's threads."""
        return time.perf_counter() - self._wall, time.process_time() - self._cpu


class Contender(Protocol):
    """One way to paint; lives in a process of its own."""

    def use(self, skip: Skip, picture: Picture) -> None:
        """From now on skip steps so.

        :param picture: like those to come in size and steps.
        """

    def run(self, pictures: Sequence[Picture], folder: Path) -> Result:
        """Paint pictures of one size and write them into a new folder."""


def in_groups(pictures: Sequence[Picture], size: int) -> list[Sequence[Picture]]:
    return [pictures[at : at + size] for at in range(0, len(pictures), size)]


class Diffusers:
    """The script that a user would write, in groups."""

    def __init__(
        self, pipeline: Any, device: Device, text_tokens: int, group: int, mode: str = "none"
    ) -> None:
        """:param mode: of torch.compile, for the blocks; "none" for eager."""
        self.pipeline, self._device = pipeline, device
        self._text_tokens, self._group = text_tokens, group
        self._ratios: list[float] = []
        pipeline.set_progress_bar_config(disable=True)
        if device.kind == "cpu":
            pipeline.vae.to(memory_format=torch.channels_last)
        transformer = pipeline.transformer
        blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
        for block in blocks:
            # Whatever an earlier contender made of it.
            block.forward = types.MethodType(type(block).forward, block)
            # Inside of what a cache wraps around the blocks: its branch would break the graph.
            if mode != "none":
                block.forward = torch.compile(
                    block.forward, fullgraph=True, dynamic=False, mode=mode
                )
        self._computed = _count_calls(blocks[-1])

    def use(self, skip: Skip, picture: Picture) -> None:
        """See `Contender`. MagCache is calibrated on the picture."""
        transformer, steps = self.pipeline.transformer, picture.steps
        assert not skip.computes(steps), "diffusers' caches cannot be told which steps to compute"
        if transformer.is_cache_enabled:
            transformer.disable_cache()
        if skip.how == "MagCache" and len(self._ratios) != steps:
            self._ratios = mag_ratios(transformer, steps, lambda: self._paint([picture], Result()))
        if skip != Skip():
            cache = diffusers_cache(skip.how, skip.value, self.pipeline, steps, self._ratios)
            transformer.enable_cache(cache)

    def run(self, pictures: Sequence[Picture], folder: Path) -> Result:
        """See `Contender`."""
        folder.mkdir(parents=True)
        result, groups = Result(), in_groups(pictures, self._group)
        before, watch = self._computed(), Watch()
        with (folder / "000000.tar").open("wb") as tar:
            for group in groups:
                for picture, image in zip(group, self._paint(group, result), strict=True):
                    result.pixels[picture.key] = image
                    tar.write(sample(picture, encode_image(image, Output()), Output()))
            tar.write(bytes(1024))
        result.wall_s, result.cpu_s = watch.seconds()
        result.skipped = 1 - (self._computed() - before) / (pictures[0].steps * len(groups))
        result.peak_bytes = self._device.peak_bytes()
        return result

    @torch.inference_mode()
    def _paint(self, group: Sequence[Picture], result: Result) -> Pixels:
        """The pipeline's call in three stages, so that each can be timed."""
        pipeline, first, clock = self.pipeline, group[0], self._device.clock()
        prompts = [picture.prompt for picture in group]
        tokens, pooled, _ = pipeline.encode_prompt(
            prompts, None, self._device.kind, max_sequence_length=self._text_tokens
        )
        clock.mark()
        latents = pipeline(
            prompt_embeds=tokens,
            pooled_prompt_embeds=pooled,
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance,
            generator=[torch.Generator().manual_seed(picture.seed) for picture in group],
            output_type="latent",
        ).images
        clock.mark()
        latents = pipeline._unpack_latents(
            latents, first.height, first.width, pipeline.vae_scale_factor
        )
        latents = latents / pipeline.vae.config.scaling_factor + pipeline.vae.config.shift_factor
        images = pipeline.image_processor.postprocess(
            pipeline.vae.decode(latents, return_dict=False)[0], output_type="pil"
        )
        clock.mark()
        text_s, denoise_s, decode_s = clock.laps_s()
        result.text_s, result.denoise_s, result.decode_s = (
            result.text_s + text_s,
            result.denoise_s + denoise_s,
            result.decode_s + decode_s,
        )
        return np.stack([np.asarray(image) for image in images])


class CacheDit(Diffusers):
    """Stock diffusers with cache-dit's DBCache: one mean decides for the whole group."""

    cached = False

    def use(self, skip: Skip, picture: Picture) -> None:
        """See `Contender`."""
        import cache_dit

        if self.cached:
            cache_dit.disable_cache(self.pipeline)
        self.cached = skip != Skip()
        if self.cached:
            computed = skip.computes(picture.steps)
            cache_dit.enable_cache(
                self.pipeline, **cache_dit_settings(skip.how, skip.value, computed)
            )


class Batchgen:
    """The engine that the job asks for, between batchgen's reading and writing."""

    def __init__(
        self,
        job: Job,
        checkpoint: Checkpoint,
        sizes: Sequence[tuple[int, int]],
        load: LoadFamily = load_family,
    ) -> None:
        """:param sizes: (width, height) of the pictures to come, px."""
        self.group = job.engine.batch_size  # pictures; fewer may be asked for later
        self.engine = build_engine(
            job, checkpoint, work=Workload(tuple(sizes), self.group, negative=False), load=load
        )
        self._checkpoint = checkpoint
        self._pipeline = Pipeline(Renderer(self.engine), job.output, Origin("here", 0))

    def use(self, skip: Skip, picture: Picture) -> None:
        """See `Contender`."""
        section: dict[str, Any] = {"policy": skip.how}
        if skip.how == "schedule":
            computed = skip.computes(picture.steps)
            section["skip"] = [step for step, yes in enumerate(computed) if not yes]
        elif skip.how != "none":
            section["tolerance" if skip.how == "multistep" else "threshold"] = skip.value
        self.use_cache(Cache(**section))

    def use_cache(self, cache: Cache) -> None:
        """From now on what a job's `[cache]` says."""
        self.engine.policy = make_policy(
            cache, self._checkpoint.family, len(self.engine.family.blocks)
        )

    def run(self, pictures: Sequence[Picture], folder: Path) -> Result:
        """See `Contender`."""
        directory = RunDirectory(folder)
        directory.make_folders(1)
        groups = in_groups(pictures, self.group)
        starts = itertools.accumulate(map(len, groups), initial=0)
        tasks = [Task(at, group) for at, group in zip(starts, groups, strict=False)]
        result, partial, watch = Result(), PartialShard(directory, 0, 1, ()), Watch()
        for group in self._pipeline.run(partial, tasks, lambda _: True):
            _add(result, group)
        partial.seal()
        partial.close()
        result.wall_s, result.cpu_s = watch.seconds()
        result.skipped /= len(pictures)
        return result


def _add(result: Result, group: Sequence[Made]) -> None:
    """A written group; all its pictures must be good, the first time and together."""
    assert {(one.cause, one.path) for one in group} == {("", "normal")}, [
        (one.cause, one.error, one.path) for one in group
    ]
    for one in group:
        assert one.pixels is not None
        result.pixels[one.picture.key] = one.pixels
        result.skipped += one.trace.skipped.count(SKIPPED) / one.picture.steps if one.trace else 0.0
    result.text_s += group[0].text_s  # a group's pictures share their seconds
    result.denoise_s += group[0].denoise_s
    result.decode_s += group[0].decode_s
    result.peak_bytes = group[0].peak_bytes


def _count_calls(block: Any) -> Callable[[], int]:
    """Count how often a block computes; a skipped step does not come as far as the last one."""
    calls, forward = 0, block.forward

    @functools.wraps(forward)
    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return forward(*args, **kwargs)

    block.forward = counted
    return lambda: calls
