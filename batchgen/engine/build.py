"""Composes the engine: the techniques, in the one order that is right."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from batchgen.engine.attention.fuse import fuse_projections
from batchgen.engine.attention.joint import install_attention
from batchgen.engine.attention.kernels import choose_attention
from batchgen.engine.attention.lengths import Lengths, RowsAttention
from batchgen.engine.attention.log_sum_exp import choose_attend_part
from batchgen.engine.cache import make_policy
from batchgen.engine.compile.blocks import CompiledBlocks
from batchgen.engine.compile.compile_cache import FOLDER, CompileCache
from batchgen.engine.compile.compiler import Compiler, Mode
from batchgen.engine.device import Device, choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.family import Family
from batchgen.engine.families.lora import fuse_lora
from batchgen.engine.interface import Workload
from batchgen.engine.offload.residence import Residence
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import shares
from batchgen.engine.parallel.ulysses_ring import RanksAttention
from batchgen.engine.precision.rules import QUANTIZED, check_independence, check_tokens
from batchgen.engine.rules import compile_mode
from batchgen.engine.score import Scorer
from batchgen.engine.torch_engine import TorchEngine
from batchgen.engine.vae.decode import CompiledDecode, plain_decode, worth_compiling
from batchgen.engine.vae.one_frame import one_frame
from batchgen.errors import JobError
from batchgen.model import Checkpoint, ScoreModel
from batchgen.settings import Job

if TYPE_CHECKING:
    from batchgen.engine.precision.quantized_weights import QuantizedWeights

log = logging.getLogger(__name__)

LoadFamily = Callable[[Checkpoint, Device, int, bool, Collection[str]], Family]
"""As `load_family`."""


def build_engine(
    job: Job,
    checkpoint: Checkpoint,
    ranks: Ranks | None = None,
    work: Workload | None = None,
    load: LoadFamily = load_family,
) -> TorchEngine:
    """Load the model and make it what the job asks for, on the device that the job asks for.

    :param ranks: the replica's ranks; None for a rank alone.
    :param work: what is to come, for which blocks are compiled. None: anything may come, and
        compiling is refused.
    :param load: turns the checkpoint into a family. Full-size benchmarks make weights up.
    :raises JobError: the device is missing, or it lacks what the job asks for.
    :raises ModelError: the weights do not load, or a LoRA does not fit.
    """
    ranks = ranks or Ranks()
    if work:
        work.tell("loading the model")
    device = choose_device(job.engine, job.precision.linear)
    weights = _choose_weights(job, checkpoint, ranks, work, device)
    text_tokens = job.model.max_sequence_length
    # If a file has the quantized transformer, its structure is enough until quantization.
    trained = weights is None or not weights.stored()
    settled = _settled(job, checkpoint, device)
    family = device.attempt(lambda: load(checkpoint, device, text_tokens, trained, settled))
    family.state_levels(job.sampling.shift, job.sampling.sigmas)

    # LoRAs come first: they are stated against the trained weights, under the trained names, in the
    # trained precision. Later steps move linears (modulations), rename them (fused q, k and v),
    # round them (quantization) or have read them already (compilation).
    for lora in job.model.lora:
        fuse_lora(family.lora_targets(), Path(lora.path).expanduser(), lora.scale, device.kind)
    # Modulations leave the blocks before the blocks' linears are counted and quantized, so that
    # they stay in the trained precision.
    modulator = family.modulator()
    # Linears of the same input become one, so that it is quantized once and not three times.
    fuse_projections(family.blocks, family.attentions())
    # Weights are rounded once they are final, and before the compiler sees their kernels.
    if work and weights:
        work.tell("quantizing the weights")
    numerics = _quantize(job, family, modulator, weights, device)
    # Attention must be final before anything is traced.
    lengths = Lengths()
    kernel = _choose_attention(job, checkpoint, family, ranks.half, device, lengths)
    # A VAE of videos becomes one of pictures before it moves, is decoded in bands or compiled.
    family.vae = one_frame(family.vae)
    # What is not there yet goes to the device when nothing about it will change any more: no larger
    # than it must be, and without what may leave again.
    residence = device.attempt(
        lambda: Residence(job.engine.offload, device.kind, family, modulator)
    )
    # The cache's branch stays outside the blocks: `forward_pass.py` asks it at every step.
    policy = make_policy(job.cache, checkpoint.family, len(family.blocks))
    identity = f"{device.identity}{numerics} attention={kernel}"
    if ranks.mesh.cfg > 1:
        identity += f" cfg={ranks.mesh.cfg}"
    vae = plain_decode(family.vae, device.kind)
    engine = TorchEngine(
        identity, family, modulator, policy, device, ranks, lengths, residence, vae
    )
    engine.records = job.cache.record
    # One rank has all pixels. The others leave the scorer alone.
    if checkpoint.scorer and ranks.rank == 0:
        engine.scorer = _load_scorer(checkpoint.scorer, device)
    # Compilation and warm-up come last: what is traced stays as it is, and everything that a group
    # needs is there before one is timed.
    if mode := _compile_mode(job, device):
        _compile(engine, mode, job, checkpoint, work)
    return engine


def _load_scorer(scorer: ScoreModel, device: Device) -> Scorer:
    return device.attempt(lambda: Scorer(scorer, device))


def _choose_weights(
    job: Job, checkpoint: Checkpoint, ranks: Ranks, work: Workload | None, device: Device
) -> QuantizedWeights | None:
    """How the blocks' linears are put into 8 bits, and the file that may hold them; None: not."""
    asked, text_tokens = job.precision, job.model.max_sequence_length
    if asked.linear != "fp8" and asked.linear != "int8":
        return None
    check_independence(
        asked.linear,
        asked.granularity,
        cp=ranks.mesh.cp,
        cfg=ranks.mesh.cfg,
        group=job.engine.batch_size,
        force=asked.force,
    )
    if work:
        lengths = {n for size in work.sizes for n in checkpoint.tokens(*size, text_tokens)}
        check_tokens(asked.linear, lengths, ranks.mesh.cp, cuda=device.kind.type == "cuda")
    # Imported here, because torchao takes seconds.
    from batchgen.engine.precision.quantized_weights import choose_weights

    return choose_weights(job, asked.linear, checkpoint, device)


def _settled(job: Job, checkpoint: Checkpoint, device: Device) -> set[str]:
    """The components that a card holds as they are trained, and all the time.

    Loaded straight to it, they take no memory of the host, where several workers load at once.
    What is quantized arrives linear by linear, so that the card never holds the trained weights.
    """
    if device.kind.type != "cuda":
        return set()
    offload, precision = job.engine.offload, job.precision
    encoders = {name for name in checkpoint.components() if name.startswith("text_encoder")}
    settled = {"vae"}
    if offload == "none":
        settled |= encoders
    if offload in ("none", "text") and precision.linear not in QUANTIZED:
        settled.add("transformer")
    return settled - ({checkpoint.text} if precision.text != "none" else set())


def _quantize(
    job: Job,
    family: Family,
    modulator: torch.nn.Module,
    weights: QuantizedWeights | None,
    device: Device,
) -> str:
    """Put the blocks' linears and the text encoder into 8 bits as the job asks.

    Return how, for the engine's identity.
    """
    asked, numerics = job.precision, ""
    if weights is not None:
        count = device.attempt(lambda: weights.install(family, modulator, device.kind))
        numerics += f" {asked.linear}/{asked.granularity}x{count}"
    if asked.text != "none":
        from batchgen.engine.precision.quantize import quantize_text

        numerics += f" text={asked.text}x{quantize_text(family.text, asked.text, device.kind)}"
    return numerics


def _choose_attention(
    job: Job, checkpoint: Checkpoint, family: Family, ranks: Ranks, device: Device, lengths: Lengths
) -> str:
    """Put the attention into the blocks. Return the kernel's name, for the engine's identity."""
    attend, kernel = choose_attention(job.engine.attention, device.kind, device.dtype)
    if ranks.degree == 1:
        joint = RowsAttention(lengths, attend) if family.ragged else attend
        install_attention(family.attentions(), joint, attend)
        return kernel
    part = choose_attend_part(kernel)
    over, alone = (
        RanksAttention(ranks, checkpoint.heads, lengths, attend, part, alone=alone)
        for alone in (False, True)
    )
    install_attention(family.attentions(), over, alone)
    return f"{kernel} ulysses={ranks.mesh.ulysses} ring={ranks.mesh.ring}"


def _compile_mode(job: Job, device: Device) -> Mode | None:
    """The mode of torch.compile; None: nothing is compiled."""
    mode = compile_mode(job.compile.mode, job.engine.offload, cuda=device.kind.type == "cuda")
    return None if mode == "none" else cast("Mode", mode)


def _compile(
    engine: TorchEngine, mode: Mode, job: Job, checkpoint: Checkpoint, work: Workload | None
) -> None:
    """Compile blocks and VAE for what is to come, or load the code that an earlier process made."""
    if work is None:
        raise JobError("[compile] needs to know the sizes to come")
    family, ranks, device = engine.family, engine.ranks, engine.device
    half = ranks.half
    tokens = {
        size: shares(family.image_tokens(*size), half.degree)[half.rank] for size in work.sizes
    }
    rows = work.batch * (2 if work.negative or checkpoint.contrasts else 1)
    rows = shares(rows, ranks.mesh.cfg)[0]  # no half has more
    work.tell("looking for compiled code")
    engine.compiler = Compiler(mode)
    blocks = CompiledBlocks(family.blocks, engine.compiler, tokens=set(tokens.values()), rows=rows)
    family.blocks = blocks.blocks
    decode = None
    if worth_compiling(device.kind):
        engine.vae = decode = CompiledDecode(family, engine.compiler, work.sizes, ranks)
    planned = blocks.graphs + (decode.graphs(work.batch) if decode else 0)
    with _compile_cache(engine, mode, job, work, rows) as code:
        doing = "loading compiled code" if code.loaded else "compiling"
        engine.compiler.tell = lambda made: work.tell(doing, f"{made} of {max(made, planned)}")
        blocks.warm(engine.rehearse, tokens)
        if decode:
            decode.warm(work.batch, device.kind, device.dtype)
    engine.compiler.seal(code.sha256)
    engine.identity += f" compile={mode}"
    log.info("%s, %s", engine.compilation, "from the archive" if code.loaded else "made here")


def _compile_cache(
    engine: TorchEngine, mode: Mode, job: Job, work: Workload, rows: int
) -> CompileCache:
    """The archive of this engine's code."""
    family, ranks, device = engine.family, engine.ranks, engine.device.kind
    facts = {
        "identity": engine.identity,
        "device": str(device),
        "mode": mode,
        # The same for all ranks. Their shares follow from them.
        "sizes": sorted(work.sizes),
        "text": job.model.max_sequence_length,
        "rows": rows,
        "layout": [ranks.mesh.ulysses, ranks.mesh.ring, ranks.mesh.cfg],
        "model": _configuration(family.transformer),
        "vae": _configuration(family.vae),
    }

    def agree(found: bool) -> bool:
        return bool(ranks.agree(torch.tensor([int(found)], device=device)))

    # The other ranks wait in an exchange, which ends after `group_timeout_s`.
    limit_s = math.inf if ranks.degree == 1 else job.run.group_timeout_s / 2
    folder = Path(job.run.compile_cache or FOLDER)
    return CompileCache(
        folder,
        facts,
        rank=ranks.rank,
        ranks=ranks.degree,
        agree=agree,
        before_wait=lambda: work.tell("waiting for code that another process compiles"),
        limit_s=limit_s,
    )


def _configuration(module: Any) -> dict[str, Any]:
    """A diffusers model's configuration without its folder: copies of a model share their code."""
    values: dict[str, Any] = json.loads(module.to_json_string())
    values.pop("_name_or_path", None)
    return values
