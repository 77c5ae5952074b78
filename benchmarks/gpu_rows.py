"""One row of `gpu.py`, in a process of its own, with one model.

    python -m benchmarks.gpu_rows fp8 FOLDER [--small] [--compile MODE]

imports, which takes seconds; waits for a line on its standard input; measures; and prints a line of
JSON. Seconds are those of a picture, end to end: text encoding, denoising, VAE, JPEG, tar.

Weights are random (`random_flux.py`), so steps are skipped as told, spread evenly.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.engine.device import Device, choose_device
from batchgen.manifest import Picture
from batchgen.model.checkpoint import Checkpoint
from batchgen.model.index import read_index
from batchgen.settings.job import Job, parse_job
from benchmarks.card import Clocks
from benchmarks.contenders import Batchgen, CacheDit, Diffusers, Skip
from benchmarks.held_out import of_prompt
from benchmarks.random_flux import random_family, random_pipeline, write_configurations

PROMPT = "a red circle at the top left of a white background"


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is."""

    small: bool
    # Of a picture, in pixels.
    side: int
    steps: int
    # Measured, after one to warm up.
    pictures: int
    text_tokens: int
    # Of torch.compile.
    mode: str
    # For configurations, compiled code and pictures.
    folder: Path
    model: str = "FLUX.1-dev"

    def checkpoint(self) -> Checkpoint:
        """The configurations; of their weights none is read."""
        folder = self.folder / self.model
        if self.model == "FLUX.1-dev":
            return write_configurations(folder, small=self.small)
        # Imported here: it needs pytest, as the row of tests does.
        from tests.support.full_size import write_model

        write_model(folder, self.model, small=self.small)
        return Checkpoint(folder, read_index(folder).name, {"weights": "random"})

    def job(self, **sections: Any) -> Job:
        """What is asked of batchgen."""
        tree = {
            "model": {"path": "tiny", "max_sequence_length": self.text_tokens},
            "engine": {"batch_size": 1},
            "compile": {"mode": self.mode},
            "run": {"compile_cache": str(self.folder / "compiled")},
        }
        return parse_job(tree | sections, "benchmarks/gpu_rows.py")

    def device(self) -> Device:
        """As the engine would choose it."""
        job = self.job()
        return choose_device(job.engine, job.precision.linear)

    def to_paint(self, count: int, steps: int) -> list[Picture]:
        """Pictures of one prompt, each from its own seed."""
        return [of_prompt(key, PROMPT, (self.side, self.side), steps) for key in range(count)]


def make_scale(folder: Path, mode: str | None, *, small: bool) -> Scale:
    """The size of FLUX.1-dev, or the embedded model's.

    :param mode: of torch.compile; None: "default", and "none" for the small one.
    """
    if small:
        return Scale(True, 128, 4, 2, 32, mode or "none", folder)
    return Scale(False, 1024, 28, 4, 512, mode or "default", folder)


def batchgen(scale: Scale, linear: str, share: float = 0) -> Batchgen:
    """Batchgen.

    :param share: of the steps, which are skipped.
    """
    sections: dict[str, Any] = {"precision": {"linear": linear}}
    if share:
        file = scale.folder / f"trace-{share}.json"
        file.write_text(json.dumps({key: spread(scale.steps, share) for key in range(64)}))
        sections["cache"] = {"policy": "replay", "blocks": 0, "trace": str(file)}
    size = (scale.side, scale.side)
    return Batchgen(scale.job(**sections), scale.checkpoint(), [size], random_family)


def diffusers(scale: Scale) -> Diffusers:
    """The stock pipeline with compiled blocks."""
    device = scale.device()
    pipeline = random_pipeline(scale.checkpoint().folder, device)
    return Diffusers(pipeline, device, scale.text_tokens, 1, scale.mode)


def cache_dit(scale: Scale, share: float) -> CacheDit:
    """The stock pipeline with compiled blocks and cache-dit, and linears as batchgen's in FP8."""
    from batchgen.engine.precision.quantize import choose_format, quantize_blocks

    device = scale.device()
    pipeline = random_pipeline(scale.checkpoint().folder, device)
    model = pipeline.transformer
    how = choose_format("fp8", "row", device.kind)
    quantize_blocks([*model.transformer_blocks, *model.single_transformer_blocks], how)
    contender = CacheDit(pipeline, device, scale.text_tokens, 1, scale.mode)
    letters = spread(scale.steps, share)
    computed = tuple(step for step, letter in enumerate(letters) if letter == COMPUTED)
    (picture,) = scale.to_paint(1, scale.steps)
    contender.use(Skip("DBCache", computed=computed), picture)
    return contender


# Of rows with another model than FLUX.1-dev.
OTHERS: dict[str, dict[str, Any]] = {"klein": {"model": "FLUX.2-klein-4B", "steps": 4}}
ROWS: dict[str, Callable[[Scale], Batchgen | Diffusers]] = {
    "fp8": lambda scale: batchgen(scale, "fp8"),
    "fp8-75": lambda scale: batchgen(scale, "fp8", 0.75),
    "fp8-50": lambda scale: batchgen(scale, "fp8", 0.5),
    "bf16": lambda scale: batchgen(scale, "bf16"),
    "diffusers": diffusers,
    "klein": lambda scale: batchgen(scale, "bf16"),
    "cache-dit": lambda scale: cache_dit(scale, 0.5),
}


def spread(steps: int, share: float) -> str:
    """A trace that skips this share of the steps, and computes the others at even distances."""
    count = max(1, round(steps * (1 - share)))
    computed = {number * steps // count for number in range(count)}
    return "".join(COMPUTED if step in computed else SKIPPED for step in range(steps))


def measure(name: str, scale: Scale) -> dict[str, Any]:
    """The row of this name, in seconds, bytes and the card's MHz and W."""
    begun = time.perf_counter()
    contender = ROWS[name](scale)
    with tempfile.TemporaryDirectory(dir=scale.folder) as folder:
        contender.run(scale.to_paint(1, scale.steps), Path(folder) / "warm")
        ready_s = time.perf_counter() - begun
        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        with Clocks() as clocks:
            pictures = scale.to_paint(scale.pictures, scale.steps)
            result = contender.run(pictures, Path(folder) / "run")
    count = len(pictures)
    return {
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "identity": contender.engine.identity if isinstance(contender, Batchgen) else "",
        "side_px": scale.side,
        "steps": scale.steps,
        "pictures": count,
        "skipped": result.skipped,
        "ready_s": ready_s,
        "picture_s": result.wall_s / count,
        "text_s": result.text_s / count,
        "denoise_s": result.denoise_s / count,
        "decode_s": result.decode_s / count,
        "peak_bytes": result.peak_bytes,
        "mhz": clocks.mhz,
        "watts": clocks.watts,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=ROWS)
    parser.add_argument("folder", type=Path, help="for configurations, compiled code and pictures")
    parser.add_argument("--small", action="store_true", help="the embedded model's size")
    parser.add_argument("--compile", help="mode of torch.compile")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if sys.stdin.readline():
        scale = make_scale(given.folder, given.compile, small=given.small)
        scale = replace(scale, **OTHERS.get(given.name, {}))
        print(json.dumps(measure(given.name, scale)), flush=True)


if __name__ == "__main__":
    main()
