"""Composes the engine: the techniques in the one order that is right."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import torch

from batchgen.checkpoint import Checkpoint
from batchgen.engine import Workload
from batchgen.engine.artifacts import FOLDER, WAIT_S, CompiledCode
from batchgen.engine.attention import choose_attention, fuse_projections, install_attention
from batchgen.engine.compile import Mode, compile_blocks
from batchgen.engine.device import Device, choose_device
from batchgen.engine.family import Family, load_family
from batchgen.engine.logsumexp import choose_attend_part
from batchgen.engine.lora import fuse_lora
from batchgen.engine.mesh import shares
from batchgen.engine.modulation import hoist_modulations
from batchgen.engine.offload import Residence
from batchgen.engine.parallel import RanksAttention
from batchgen.engine.policies import make_policy
from batchgen.engine.precision_rules import check_independence
from batchgen.engine.ranks import Ranks
from batchgen.engine.stages import TorchEngine
from batchgen.errors import JobError
from batchgen.job import Job

log = logging.getLogger(__name__)

LoadFamily = Callable[[Checkpoint, Device, int], Family]


def build_engine(
    job: Job, checkpoint: Checkpoint, ranks: Ranks | None = None, work: Workload | None = None, load: LoadFamily = load_family
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
    family = device.attempt(lambda: load(checkpoint, device, job.model.max_sequence_length))

    # LoRAs first: they are stated against the trained weights, under the trained names, in the trained precision. Whatever follows moves
    # linears (modulations), renames them (fused q/k/v), rounds them (quantization) or has read them already (compilation).
    for lora in job.model.lora:
        fuse_lora(family.lora_targets(), Path(lora.path).expanduser(), lora.scale)
    # Modulations leave the blocks before the blocks' linears are counted and quantized: they stay in the trained precision.
    modulator = hoist_modulations(family.blocks)
    # q, k and v become one matrix, so that their input is quantized once and not three times.
    fuse_projections(family.blocks)
    # Weights are rounded once they are final; the compiler must see the kernels they are multiplied with.
    numbers = _quantize(job, family, ranks, device)
    # Attention must be final before anything is traced.
    attend, kernel = choose_attention(job.engine.attention, device.kind)
    attentions = None
    if ranks.degree > 1:  # text and image tokens are split over them; some blocks have a second attention, among image tokens alone
        joint, image = (RanksAttention(ranks, checkpoint.heads, attend, choose_attend_part(kernel)) for _ in range(2))
        attentions = joint, image
        kernel += f" ulysses={ranks.layout.ulysses} ring={ranks.layout.ring}"
    install_attention(family.blocks, *(attentions or (attend, attend)))
    # What is not needed all the time may leave the device, once nothing about it will change.
    residence = Residence(job.engine.offload, device.kind, family)
    # The cache's branch stays outside the blocks: it is asked at every group's every step, by `forward.py`.
    policy = make_policy(job.cache, checkpoint.family, len(family.blocks))
    engine = TorchEngine(f"{device.identity}{numbers} attention={kernel}", family, modulator, policy, device, ranks, attentions, residence)
    # Compile and warm last: what is traced stays as it is, and all that a group will need is there before one is timed.
    if (mode := _mode(job, device)) != "none":
        _compile(engine, mode, job, checkpoint, work)
    return engine


def _quantize(job: Job, family: Family, ranks: Ranks, device: Device) -> str:
    """Put the blocks' linears and the text encoder into 8 bits where the job says so; how, for the engine's identity."""
    asked, identity = job.precision, ""
    if asked.linear == "fp8" or asked.linear == "int8":
        check_independence(asked.linear, asked.granularity, cp=ranks.degree, group=job.engine.batch_size, force=asked.force)
        from batchgen.engine.quantize import quantize_blocks  # here: torchao takes seconds to import, and says things

        count = quantize_blocks(family.blocks, asked.linear, asked.granularity, device.kind)
        identity += f" {asked.linear}/{asked.granularity}x{count}"
    if asked.text != "none":
        from batchgen.engine.quantize import quantize_text

        identity += f" text={asked.text}x{quantize_text(family.t5, asked.text)}"
    return identity


def _mode(job: Job, device: Device) -> Mode:
    if job.compile.mode == "auto":
        return "default" if device.kind.type == "cuda" and job.engine.offload != "layers" else "none"
    if job.compile.mode != "none" and job.engine.offload == "layers":
        raise JobError(f'compile.mode = "{job.compile.mode}" with engine.offload = "layers": layers that move cannot be compiled; drop one')
    return job.compile.mode


def _compile(engine: TorchEngine, mode: Mode, job: Job, checkpoint: Checkpoint, work: Workload | None) -> None:
    """Compile the blocks for the sizes and numbers of rows to come, or take them from the cache of an earlier process."""
    if work is None:
        raise JobError("[compile] needs to know the sizes to come")
    family, ranks = engine.family, engine.ranks
    tokens = {size: shares(_tokens(family, size), ranks.degree)[ranks.rank] for size in work.sizes}
    rows = work.batch * (2 if work.negative or checkpoint.contrasts else 1)
    blocks = compile_blocks(family.blocks, mode, set(tokens.values()), rows)
    family.blocks = blocks.blocks
    facts = {
        "identity": engine.identity,
        "device": str(engine.device.kind),
        "mode": mode,
        "sizes": sorted(work.sizes),  # the same for all ranks, whose shares follow
        "text": job.model.max_sequence_length,
        "rows": rows,
        "layout": [ranks.layout.ulysses, ranks.layout.ring],
        "model": json.loads(family.transformer.to_json_string()),
    }

    def agree(found: bool) -> bool:
        return bool(ranks.agree(torch.tensor([int(found)], device=engine.device.kind)))

    folder = Path(job.run.compile_cache or FOLDER)
    patience_s = WAIT_S if ranks.degree == 1 else min(WAIT_S, job.run.group_timeout_s / 2)  # the other ranks wait in an exchange
    with CompiledCode(folder, facts, rank=ranks.rank, ranks=ranks.degree, agree=agree, wait_s=patience_s) as code:
        made = blocks.warm(engine.rehearse, tokens)
    engine.compilation = blocks
    engine.identity += f" compile={mode}"
    log.info("compiled: %s, %s, %s", made, "from the cache" if code.loaded else "made here", code.sha256)


def _tokens(family: Family, size: tuple[int, int]) -> int:
    return family.pack(torch.empty(1, *family.noise_shape(*size), device="meta")).shape[1]
