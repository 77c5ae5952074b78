"""What `gpu.py` measures. A session is a process with one model; it yields a line a row, as soon as
the row is measured.

Weights are random (`random_flux.py`), so steps are skipped as given, never found: half of them,
other ones for every picture of a group.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from batchgen.engine.cache.policy import COMPUTED, SKIPPED
from batchgen.engine.device import Device, choose_device
from batchgen.manifest import Picture
from batchgen.model.checkpoint import Checkpoint
from batchgen.settings.job import Cache, Job, parse_job
from benchmarks.ceilings import measure_ceilings
from benchmarks.contenders import Batchgen, CacheDit, Diffusers, Result, Skip
from benchmarks.held_out import of_prompt
from benchmarks.random_flux import random_family, random_pipeline, write_configurations

Line = dict[str, Any]
PROMPT = "a red circle at the top left of a white background"


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is: a GPU's measure, or a test's on a CPU."""

    small: bool
    side: int  # px of most rows; they have half as many in row 8, twice as many in row 11
    steps: int
    pictures: int  # measured in a row; in larger groups, `groups` of them
    groups: int
    text_tokens: int
    mode: str  # of torch.compile
    folder: Path  # for configurations, compiled code and pictures
    deadline: float = 0.0  # seconds since the epoch

    def checkpoint(self) -> Checkpoint:
        """The configurations; there are no weights on disk."""
        return write_configurations(self.folder / "model", small=self.small)

    def job(self, group: int = 1, **sections: Any) -> Job:
        """What is asked of batchgen."""
        tree = {
            "model": {"path": "tiny", "max_sequence_length": self.text_tokens},
            "engine": {"batch_size": group} | sections.pop("engine", {}),
            "compile": {"mode": self.mode},
            "run": {"compile_cache": str(self.folder / "compiled")},
        }
        return parse_job(tree | sections, "benchmarks/gpu.py")

    def device(self) -> Device:
        """As the engine would choose it."""
        job = self.job()
        return choose_device(job.engine, job.precision.linear)

    def to_paint(self, count: int, side: int, steps: int) -> list[Picture]:
        """Square pictures of one prompt, each from its own seed."""
        return [of_prompt(key, PROMPT, (side, side), steps) for key in range(count)]


FULL = Scale(
    small=False,
    side=1024,
    steps=28,
    pictures=3,
    groups=2,
    text_tokens=512,
    mode="default",
    folder=Path(),
)
SMALL = Scale(
    small=True, side=128, steps=3, pictures=2, groups=1, text_tokens=32, mode="none", folder=Path()
)


def ceilings(scale: Scale) -> Iterator[Line]:
    """Matrix products; (9) attention kernels."""
    yield from measure_ceilings(scale.device(), small=scale.small)


def stock(scale: Scale) -> Iterator[Line]:
    """(1) diffusers eager, (2) compiled."""
    device, checkpoint = scale.device(), scale.checkpoint()
    pipeline = random_pipeline(checkpoint.folder, device)
    for row, mode in (("1", "none"), ("2", scale.mode)):
        contender = Diffusers(pipeline, device, scale.text_tokens, 1, mode)
        yield measure(scale, row, f"diffusers, compile {mode}", contender, scale.side, 1)


def bf16(scale: Scale) -> Iterator[Line]:
    """(3) batchgen."""
    contender = ours(scale, [scale.side])
    yield measure(scale, "3", "batchgen", contender, scale.side, 1)


def fp8(scale: Scale) -> Iterator[Line]:
    """(4) batchgen, FP8; (5) half of the steps skipped."""
    contender = ours(scale, [scale.side], precision={"linear": "fp8"})
    yield measure(scale, "4", "batchgen FP8", contender, scale.side, 1)
    contender.use_cache(replay(scale))
    yield measure(scale, "5", "batchgen FP8, replay", contender, scale.side, 1, given=True)


def cache_dit(scale: Scale) -> Iterator[Line]:
    """(6) cache-dit, the same FP8, as many steps skipped."""
    from batchgen.engine.precision.quantize import choose_format, quantize_blocks

    device, checkpoint = scale.device(), scale.checkpoint()
    pipeline = random_pipeline(checkpoint.folder, device)
    transformer = pipeline.transformer
    how = choose_format("fp8", "row", device.kind)
    quantize_blocks([*transformer.transformer_blocks, *transformer.single_transformer_blocks], how)
    contender = CacheDit(pipeline, device, scale.text_tokens, 1, scale.mode)
    (picture,) = scale.to_paint(1, scale.side, scale.steps)
    computed = [step for step, letter in enumerate(halved(0, scale.steps)) if letter == COMPUTED]
    contender.use(Skip("DBCache", computed=tuple(computed)), picture)
    yield measure(scale, "6", "cache-dit FP8, given steps", contender, scale.side, 1, given=True)


def groups(scale: Scale) -> Iterator[Line]:
    """(7) groups of 4; (8) half the side, groups of 1, 4 and 8."""
    contender = ours(scale, [scale.side, scale.side // 2], group=8, precision={"linear": "fp8"})
    yield measure(scale, "7", "batchgen FP8", contender, scale.side, 4)
    for group in (1, 4, 8):
        yield measure(scale, "8", "batchgen FP8", contender, scale.side // 2, group)
    contender.use_cache(replay(scale))
    yield measure(scale, "7", "batchgen FP8, replay, ragged", contender, scale.side, 4, given=True)


def large(scale: Scale) -> Iterator[Line]:
    """(11) twice the side."""
    contender = ours(scale, [scale.side * 2], precision={"linear": "fp8"})
    yield measure(scale, "11", "batchgen FP8", contender, scale.side * 2, 1)


def memory(scale: Scale) -> Iterator[Line]:
    """(12) peak memory of what leaves the device, eager."""
    for offload in ("none", "text", "model", "layers"):
        name = f"batchgen, offload {offload}"
        try:
            contender = ours(
                scale, [scale.side], engine={"offload": offload}, compile={"mode": "none"}
            )
            yield measure(scale, "12", name, contender, scale.side, 1)
            del contender
        # One way to save memory that fails says nothing about the others.
        except Exception as error:  # noqa: BLE001
            yield {"row": "12", "name": name, "cannot": tell(error)}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def start(scale: Scale) -> Iterator[Line]:
    """(10) a fresh process to its first picture: without compiled code, then with it."""
    folder = scale.folder / "saved"
    pipeline = random_pipeline(scale.checkpoint().folder, scale.device())
    pipeline.save_pretrained(folder)
    job = scale.job(precision={"linear": "fp8"}).model_dump(mode="json")
    job["model"]["path"], job["run"]["compile_cache"] = (
        str(folder),
        str(scale.folder / "compiled-for-start"),
    )
    ask = scale.folder / "start.json"
    ask.write_text(json.dumps({"job": job, "side": scale.side, "steps": scale.steps}))
    del pipeline
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    for name in ("cold", "warm"):
        command = [sys.executable, "-m", "benchmarks.gpu", "--first-picture", str(ask)]
        process = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=max(scale.deadline - time.time(), 1),
            check=False,
        )
        line = {
            "row": "10",
            "name": f"batchgen FP8, start to first picture, {name}",
            "storage": storage(folder),
        }
        last = process.stdout.splitlines()[-1:] if process.returncode == 0 else []
        yield line | (
            json.loads(last[0]) if last else {"cannot": process.stderr.strip().splitlines()[-1]}
        )


def first_picture(file: Path) -> Line:
    """Seconds from this process's start: until imports are done, the engine stands, the first
    picture is written.
    """
    from batchgen.model.checkpoint import resolve

    begun, ask = psutil.Process().create_time(), json.loads(file.read_text())
    import_s = time.time() - begun
    job = parse_job(ask["job"], str(file))
    contender = Batchgen(job, resolve(job.model), [(ask["side"], ask["side"])])
    engine_s = time.time() - begun
    with tempfile.TemporaryDirectory() as folder:
        contender.run(
            [of_prompt(0, PROMPT, (ask["side"], ask["side"]), ask["steps"])], Path(folder) / "run"
        )
    return {"import_s": import_s, "engine_s": engine_s, "first_picture_s": time.time() - begun}


SESSIONS: dict[
    str, tuple[Callable[[Scale], Iterator[Line]], tuple[str, ...]]
] = {  # the most important first; which rows they yield
    "ceilings": (ceilings, ("ceiling", "9")),
    "fp8": (fp8, ("4", "5")),
    "bf16": (bf16, ("3",)),
    "stock": (stock, ("1", "2")),
    "cache-dit": (cache_dit, ("6",)),
    "groups": (groups, ("7", "8")),
    "large": (large, ("11",)),
    "memory": (memory, ("12",)),
    "start": (start, ("10",)),
}


def ours(scale: Scale, sides: Sequence[int], group: int = 1, **sections: Any) -> Batchgen:
    """Batchgen with random weights, ready for pictures of these sides."""
    return Batchgen(
        scale.job(group, **sections),
        scale.checkpoint(),
        [(side, side) for side in sides],
        random_family,
    )


def tell(error: Exception) -> str:
    """What went wrong, on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]


def halved(key: int, steps: int) -> str:
    """A trace that skips half of the steps, other ones for every key; the first is computed."""
    skipped = random.Random(key).sample(range(1, steps), steps // 2)
    return "".join(SKIPPED if step in skipped else COMPUTED for step in range(steps))


def replay(scale: Scale) -> Cache:
    """`[cache]` that has half of the steps skipped, measured and synchronised as the first-block
    cache does.
    """
    file = scale.folder / "traces.json"
    file.write_text(json.dumps({key: halved(key, scale.steps) for key in range(64)}))
    return Cache(policy="replay", trace=str(file))


def measure(
    scale: Scale,
    row: str,
    name: str,
    contender: Batchgen | Diffusers,
    side: int,
    group: int,
    *,
    given: bool = False,
) -> Line:
    """A row: everything a picture costs, after one group to warm up.

    :param given: steps are skipped as a trace of their full number says; otherwise two steps are
        enough to warm up.
    """
    if isinstance(contender, Batchgen):
        contender.group = group
    count = scale.pictures if group == 1 else scale.groups * group
    with tempfile.TemporaryDirectory(dir=scale.folder) as folder:
        contender.run(
            scale.to_paint(group, side, scale.steps if given else 2), Path(folder) / "warm"
        )
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # loading and compiling are another matter
        result = contender.run(scale.to_paint(count, side, scale.steps), Path(folder) / "run")
    flops = computed_flops(scale, result, side)
    return {
        "row": row,
        "name": name,
        "side_px": side,
        "group": group,
        "steps": scale.steps,
        "pictures": count,
        "skipped": result.skipped,
        "picture_s": result.wall_s / count,
        "text_s": result.text_s / count,
        "denoise_s": result.denoise_s / count,
        "decode_s": result.decode_s / count,
        "step_s": result.denoise_s / count / scale.steps,
        "wall_over_device": result.wall_s / result.device_s,
        "peak_bytes": result.peak_bytes,
        "tflops": flops * count / result.denoise_s / 1e12,
        "precision": "fp8" if "FP8" in name else str(scale.device().dtype).removeprefix("torch."),
        "identity": contender.engine.identity if isinstance(contender, Batchgen) else "",
    }


def computed_flops(scale: Scale, result: Result, side: int) -> float:
    """FLOP of a picture's denoising: a skipped step computes the first block alone."""
    config = json.loads((scale.folder / "model" / "transformer" / "config.json").read_text())
    blocks = config["num_layers"] + config["num_single_layers"]
    whole = scale.checkpoint().flops(side, side, scale.steps, scale.text_tokens, cfg=False)
    return whole * (1 - result.skipped * (1 - 1 / blocks))


def storage(folder: Path) -> str:
    """The file system a folder lies on, and how many bytes of weights."""
    mounts = [
        mount
        for mount in psutil.disk_partitions(all=True)
        if folder.resolve().is_relative_to(mount.mountpoint)
    ]
    mount = max(mounts, key=lambda mount: len(mount.mountpoint), default=None)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    kind = mount.fstype if mount else "unknown"
    return f"{size / 1e9:.1f} GB on {kind}, just written: in the file cache as far as memory goes"
