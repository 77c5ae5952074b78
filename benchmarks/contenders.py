"""The contenders: each makes the same pictures from the same seeds and writes a tar of JPEGs.

    Diffusers   stock FluxPipeline; steps are skipped by its own FirstBlockCache
    CacheDit    the same pipeline; steps are skipped by cache-dit, first block only (F1B0), with
                or without its TaylorSeer
    Batchgen    its engine, its pipeline (writing goes on while the next group is denoised)

Tar and JPEG code is batchgen's for all of them, so that it makes no difference.
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
from diffusers import FirstBlockCacheConfig

from batchgen.calibration.fidelity import Pixels
from batchgen.engine.build import LoadFamily, build_engine
from batchgen.engine.cache import make_policy
from batchgen.engine.cache.policy import SKIPPED
from batchgen.engine.device import Device
from batchgen.engine.families import load_family
from batchgen.engine.interface import Workload
from batchgen.manifest import Picture
from batchgen.model.checkpoint import Checkpoint
from batchgen.run.directory import RunDirectory
from batchgen.settings.job import Cache, Job, Output
from batchgen.shard.escalation import Task
from batchgen.shard.partial_shard import PartialShard
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.renderer import Made, Renderer
from batchgen.worker.samples import encode_image, sample


@dataclass(frozen=True, slots=True)
class Skip:
    """Which steps are skipped, in terms all contenders understand; none by default."""

    threshold: float = 0.0  # of the first block's relative change; 0: no cache
    taylor: int = 0  # order in which what is reused is extrapolated
    # A letter a step, 1 skipped, 0 computed, whatever the threshold. Only cache-dit takes it.
    given: str = ""

    def __str__(self) -> str:
        if self.given:
            return f"{self.given.count(SKIPPED)} given steps"
        return (
            f"{self.threshold:g}" + (f" Taylor {self.taylor}" if self.taylor else "")
            if self.threshold
            else "none"
        )


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

    def use(self, skip: Skip) -> None:
        """From now on skip steps so."""

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
        self.pipeline, self._device, self._text_tokens, self._group = (
            pipeline,
            device,
            text_tokens,
            group,
        )
        pipeline.set_progress_bar_config(disable=True)
        blocks = [
            *pipeline.transformer.transformer_blocks,
            *pipeline.transformer.single_transformer_blocks,
        ]
        for block in blocks:
            block.forward = types.MethodType(
                type(block).forward, block
            )  # whatever an earlier contender made of it
            if (
                mode != "none"
            ):  # inside of what a cache wraps around the blocks: its branch would break the graph
                block.forward = torch.compile(
                    block.forward, fullgraph=True, dynamic=False, mode=mode
                )
        self._computed = _count_calls(blocks[-1])

    def use(self, skip: Skip) -> None:
        """Diffusers' cache goes by its threshold alone."""
        assert not skip.taylor, "diffusers' FirstBlockCache does not extrapolate"
        assert not skip.given, "diffusers' FirstBlockCache cannot be told"
        if self.pipeline.transformer.is_cache_enabled:
            self.pipeline.transformer.disable_cache()
        if skip.threshold:
            self.pipeline.transformer.enable_cache(FirstBlockCacheConfig(threshold=skip.threshold))

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

    def use(self, skip: Skip) -> None:
        """First block decides, no warm-up: as the others."""
        import cache_dit

        if self.cached:
            cache_dit.disable_cache(self.pipeline)
        self.cached = bool(skip.threshold or skip.given)
        if not self.cached:
            return
        cache_dit.enable_cache(
            self.pipeline,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1,
                Bn_compute_blocks=0,
                max_warmup_steps=0,
                residual_diff_threshold=skip.threshold,
                steps_computation_mask=[int(letter != SKIPPED) for letter in skip.given] or None,
                steps_computation_policy="static",
            ),
            calibrator_config=cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=skip.taylor)
            if skip.taylor
            else None,
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
        self._pipeline = Pipeline(Renderer(self.engine), job.output, Origin("here", 0, 0))

    def use(self, skip: Skip) -> None:
        """First-block cache, or none."""
        assert not skip.given, "say cache.policy = replay"
        policy = "first_block" if skip.threshold else "none"
        self.use_cache(Cache(policy=policy, threshold=skip.threshold, taylor_order=skip.taylor))

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
