"""Composes the engine: the techniques in the one order that is right."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from batchgen.engine.attention.joint import fuse_projections, install_attention
from batchgen.engine.attention.kernels import choose_attention
from batchgen.engine.attention.log_sum_exp import choose_attend_part
from batchgen.engine.cache import make_policy
from batchgen.engine.compile.blocks import compile_blocks
from batchgen.engine.compile.compile_cache import FOLDER, WAIT_S, CompileCache
from batchgen.engine.compile.compiler import Compiler, Mode
from batchgen.engine.device import Device, choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.family import Family
from batchgen.engine.families.lora import fuse_lora
from batchgen.engine.interface import Workload
from batchgen.engine.modulation import Modulator, hoist_modulations
from batchgen.engine.offload import Residence
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import shares
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.precision.rules import check_independence, check_tokens
from batchgen.engine.torch_engine import TorchEngine
from batchgen.engine.vae.decode import CompiledDecode, plain_decode, worth_compiling
from batchgen.errors import JobError
from batchgen.model import Checkpoint
from batchgen.settings import Job

if TYPE_CHECKING:
    from batchgen.engine.precision.quantized_weights import QuantizedWeights

log = logging.getLogger(__name__)

LoadFamily = Callable[[Checkpoint, Device, int, bool], Family]
"""As `load_family`."""


def build_engine(
    job: Job,
    checkpoint: Checkpoint,
    ranks: Ranks | None = None,
    work: Workload | None = None,
    load: LoadFamily = load_family,
) -> TorchEngine:
    """Load the model and make it what the job asks for, on the device the job asks for.

    :param ranks: the replica's; None: one alone.
    :param work: what is to come, which blocks are compiled for; None: anything may come, and compiling is refused.
    :param load: how the checkpoint becomes a family; benchmarks of full size make its weights up.
    :raises JobError: the device is not there, or cannot do what the job asks for.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    ranks = ranks or Ranks()
    device = choose_device(job.engine, job.precision.linear)
    weights = _choose_weights(job, checkpoint, ranks, work, device)
    # Where a file has the quantized transformer, all that comes before quantization happens to its structure alone.
    trained = weights is None or not weights.stored()
    family = device.attempt(
        lambda: load(checkpoint, device, job.model.max_sequence_length, trained)
    )

    # LoRAs first: they are stated against the trained weights, under the trained names, in the trained precision. Whatever follows moves
    # linears (modulations), renames them (fused q/k/v), rounds them (quantization) or has read them already (compilation).
    for lora in job.model.lora:
        fuse_lora(family.lora_targets(), Path(lora.path).expanduser(), lora.scale, device.kind)
    # Modulations leave the blocks before the blocks' linears are counted and quantized: they stay in the trained precision.
    modulator = hoist_modulations(family.blocks)
    # q, k and v become one matrix, so that their input is quantized once and not three times.
    fuse_projections(family.blocks)
    # Weights are rounded once they are final; the compiler must see the kernels they are multiplied with.
    numbers = _quantize(job, family, modulator, weights, device)
    # Attention must be final before anything is traced.
    attend, kernel = choose_attention(job.engine.attention, device.kind, device.dtype)
    attentions = None
    if (
        ranks.degree > 1
    ):  # text and image tokens are split over them; some blocks have a second attention, among image tokens alone
        joint, image = (
            RanksAttention(ranks, checkpoint.heads, attend, choose_attend_part(kernel))
            for _ in range(2)
        )
        attentions = joint, image
        kernel += f" ulysses={ranks.mesh.ulysses} ring={ranks.mesh.ring}"
    install_attention(family.blocks, *(attentions or (attend, attend)))
    # The model goes to the device once nothing about it will change: no larger than it must be, and without what may leave it again.
    residence = device.attempt(
        lambda: Residence(job.engine.offload, device.kind, family, modulator)
    )
    # The cache's branch stays outside the blocks: it is asked at every group's every step, by `forward.py`.
    policy = make_policy(job.cache, checkpoint.family, len(family.blocks))
    identity = f"{device.identity}{numbers} attention={kernel}"
    vae = plain_decode(family.vae, device.kind)
    engine = TorchEngine(
        identity, family, modulator, policy, device, ranks, attentions, residence, vae
    )
    # Compile and warm last: what is traced stays as it is, and all that a group will need is there before one is timed.
    if mode := _mode(job, device):
        _compile(engine, mode, job, checkpoint, work)
    return engine


def _choose_weights(
    job: Job, checkpoint: Checkpoint, ranks: Ranks, work: Workload | None, device: Device
) -> QuantizedWeights | None:
    """How the blocks' linears are put into 8 bits, if the job says so, and whether a file has them already."""
    asked = job.precision
    if asked.linear != "fp8" and asked.linear != "int8":
        return None
    check_independence(
        asked.linear,
        asked.granularity,
        cp=ranks.degree,
        group=job.engine.batch_size,
        force=asked.force,
    )
    if work:
        lengths = {
            tokens
            for size in work.sizes
            for tokens in checkpoint.tokens(*size, job.model.max_sequence_length)
        }
        check_tokens(asked.linear, lengths, ranks.degree, cuda=device.kind.type == "cuda")
    from batchgen.engine.precision.quantized_weights import (
        choose_weights,  # here: torchao takes seconds to import
    )

    return choose_weights(job, asked.linear, checkpoint, device)


def _quantize(
    job: Job, family: Family, modulator: Modulator, weights: QuantizedWeights | None, device: Device
) -> str:
    """Put the blocks' linears and the text encoder into 8 bits where the job says so; how, for the engine's identity."""
    asked, identity = job.precision, ""
    if weights is not None:
        count = device.attempt(lambda: weights.install(family, modulator, device.kind))
        identity += f" {asked.linear}/{asked.granularity}x{count}"
    if asked.text != "none":
        from batchgen.engine.precision.quantize import quantize_text

        identity += f" text={asked.text}x{quantize_text(family.t5, asked.text, device.kind)}"
    return identity


def _mode(job: Job, device: Device) -> Mode | None:
    """Of torch.compile; None: not."""
    if job.compile.mode == "auto":
        return "default" if device.kind.type == "cuda" and job.engine.offload != "layers" else None
    if job.compile.mode == "none":
        return None
    if job.engine.offload == "layers":
        raise JobError(
            f'compile.mode = "{job.compile.mode}" with engine.offload = "layers": layers that move cannot be compiled; drop one'
        )
    return job.compile.mode


def _compile(
    engine: TorchEngine, mode: Mode, job: Job, checkpoint: Checkpoint, work: Workload | None
) -> None:
    """Compile blocks and VAE for the sizes and numbers of rows to come, or take their code from the cache of an earlier process."""
    if work is None:
        raise JobError("[compile] needs to know the sizes to come")
    family, ranks = engine.family, engine.ranks
    tokens = {size: shares(_tokens(family, size), ranks.degree)[ranks.rank] for size in work.sizes}
    rows = work.batch * (2 if work.negative or checkpoint.contrasts else 1)
    engine.compiler = Compiler(mode)
    blocks = compile_blocks(family.blocks, engine.compiler, set(tokens.values()), rows)
    family.blocks = blocks.blocks
    decode = (
        CompiledDecode(family, engine.compiler, work.sizes, ranks)
        if worth_compiling(engine.device.kind)
        else None
    )
    engine.vae = decode or engine.vae
    facts = {
        "identity": engine.identity,
        "device": str(engine.device.kind),
        "mode": mode,
        "sizes": sorted(work.sizes),  # the same for all ranks, whose shares follow
        "text": job.model.max_sequence_length,
        "rows": rows,
        "layout": [ranks.mesh.ulysses, ranks.mesh.ring],
        "model": _configuration(family.transformer),
        "vae": _configuration(family.vae),
    }

    def agree(found: bool) -> bool:
        return bool(ranks.agree(torch.tensor([int(found)], device=engine.device.kind)))

    folder = Path(job.run.compile_cache or FOLDER)
    patience_s = (
        WAIT_S if ranks.degree == 1 else min(WAIT_S, job.run.group_timeout_s / 2)
    )  # the other ranks wait in an exchange
    with CompileCache(
        folder, facts, rank=ranks.rank, ranks=ranks.degree, agree=agree, wait_s=patience_s
    ) as code:
        blocks.warm(engine.rehearse, tokens)
        if decode:
            decode.warm(work.batch, engine.device.kind, engine.device.dtype)
    engine.compiler.seal(code.sha256)
    engine.identity += f" compile={mode}"
    log.info("%s, %s", engine.compilation, "from the archive" if code.loaded else "made here")


def _configuration(module: Any) -> dict[str, Any]:
    """A diffusers model's, without the folder it came from: copies of a model share their code."""
    return {
        key: value
        for key, value in json.loads(module.to_json_string()).items()
        if key != "_name_or_path"
    }


def _tokens(family: Family, size: tuple[int, int]) -> int:
    return family.pack(torch.empty(1, *family.noise_shape(*size), device="meta")).shape[1]
