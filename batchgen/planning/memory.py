"""How much memory of its device a rank takes: an estimate, from the headers of the weights' files and the sizes of the pictures.

A device holds weights all the time, and more in three phases, of which the job needs the largest:

    encoding    the weights of the phase, what the text encoders compute, and the group before, which is being decoded
    denoising   the weights of the phase, what the blocks compute, modulations, the step cache, and the group before
    decoding    by several ranks, which do one thing after the other: the same weights, and what the VAE computes

Weights are exact: their number, times 4 bytes in fp32, 2 in bf16, 1 where `[precision]` says so. The rest, with R rows (the pictures of
a group, twice with classifier-free guidance), S text and T image tokens of a rank, D the transformer's width, H heads, all in numbers:

    blocks          20·R·(S+T)·D, in models without single blocks 16. The peak over all tensors of a step on a CPU was 20 (fp32), 23 (bf16)
                    and 15 (Stable Diffusion 3.5); torch.compile needs less
    modulations     R · min(steps, 32) · values of all blocks: engine/modulation.py
    step cache      (4 + taylor_order)·R·T·D: reference, residual and its differences, embedded and probed tokens. Measured: 4.2 and 5.2
    attention       "math" alone writes out scores and their softmax: 2·R·H·(S+T)² of all tokens / cp
    text encoding   R·S·(2·heads·S + 4·d_ff) of T5. Measured: 1.4 times the scores in long texts, 5 times the hidden values in short ones

Decoding takes max(16·c₁, 20·c₀) bytes a px decoded at once, c₀ and c₁ the channels of the VAE's last two blocks: 4.1 kB for FLUX.1, where
a CPU took 3.9 in fp32 and 2.4 in bf16, and CUDA in bf16 takes some 4 with what its convolutions want (engine/vae.py). The workspace is 1 GB
on CUDA (context and libraries: an assumption), 0.5 on a CPU (Python with torch: 0.33 measured).

Not counted: fragments, compiling, what ranks exchange; on a CPU, trained weights before they are quantized. So the total may be off by a
quarter; **a job is refused only where it would not fit if all but the weights took half** (`Need.least`). On a CPU the weights too: workers
may share them, mapped from their files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from batchgen.engine.precision.rules import QUANTIZED
from batchgen.engine.sizes import at_once, bands
from batchgen.model import Checkpoint
from batchgen.planning.plan import Shape
from batchgen.settings import Job

WINDOW = 32  # as engine/modulation.py, which imports torch
WORKSPACE = {"cuda": 10**9, "cpu": 5 * 10**8}
BANDED = 2 / 3  # of an undivided decode: engine/portions.py


@dataclass(frozen=True, slots=True)
class Phase:
    """Bytes at one time."""

    name: str
    weights: int
    rest: int


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a rank takes of its device for the largest group of the run."""

    transformer: int
    encoders: int
    vae: int
    denoising: int  # activations, modulations, step cache
    decoding: int
    workspace: int
    phases: tuple[Phase, ...]
    mapped: bool = False  # weights may be shared with other workers

    @property
    def total(self) -> int:
        """What is expected."""
        return max(phase.weights + phase.rest for phase in self.phases)

    @property
    def peak(self) -> str:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.weights + phase.rest).name

    @property
    def least(self) -> int:
        """What it takes at the very least; see the module."""
        return max(
            (phase.weights // 2 if self.mapped else phase.weights) + phase.rest // 2
            for phase in self.phases
        )


@dataclass(frozen=True, slots=True)
class _Numbers:
    """Counts of numbers in a checkpoint's weights."""

    linears: int  # of the transformer's blocks, without modulations
    other: int  # of the transformer: what is never quantized
    modulations: int  # values of all blocks' modulations
    modulators: int  # the weights that compute them
    text_linears: int  # of T5
    text_other: int  # of all text encoders
    vae: int


def estimate_memory(
    job: Job, checkpoint: Checkpoint, shapes: Sequence[Shape], *, cuda: bool
) -> Need:
    """What each rank of a replica needs.

    :param shapes: of all pictures that are planned.
    :param cuda: on a CUDA card, where "auto" means bf16; else on a CPU.
    """
    numbers, size = _count(checkpoint), _number_bytes(job, cuda=cuda)
    linears = numbers.linears * (1 if job.precision.linear in QUANTIZED else size)
    transformer = linears + numbers.other * size
    encoders = (
        numbers.text_linears * (1 if job.precision.text != "none" else size)
        + numbers.text_other * size
    )
    vae = numbers.vae * size
    workspace = WORKSPACE["cuda" if cuda else "cpu"]
    denoising = max(
        _denoising(job, checkpoint, shape, size, numbers.modulations) for shape in shapes
    )
    decoding = max(_decoding(job, checkpoint, shape) for shape in shapes)
    encoding = max(_encoding(job, checkpoint, shape, size) for shape in shapes)

    offload, modulators = job.engine.offload, numbers.modulators * size
    away = {"model": transformer - modulators, "layers": linears}.get(
        offload, 0
    )  # modulations are no part of the transformer any more
    resident = (
        transformer
        - (linears if offload == "layers" else 0)
        + (encoders if offload == "none" else 0)
        + vae
    )
    beside = workspace + (
        decoding if job.parallel.degree == 1 else 0
    )  # of the group before; several ranks do one thing after the other
    phases = (
        Phase("encoding text", transformer - away + encoders + vae, beside + encoding),
        Phase("denoising", resident, beside + denoising),
        Phase("decoding", resident, workspace + decoding),
    )
    return Need(transformer, encoders, vae, denoising, decoding, workspace, phases, mapped=not cuda)


def _number_bytes(job: Job, *, cuda: bool) -> int:
    """Of what is not quantized."""
    asked = job.precision.linear
    return 4 if asked == "fp32" or (asked != "bf16" and not cuda) else 2


def _count(checkpoint: Checkpoint) -> _Numbers:
    linears = modulators = modulations = 0
    for shape, modulates in _block_matrices(checkpoint):
        linears += 0 if modulates else math.prod(shape)
        modulators += math.prod(shape) if modulates else 0
        modulations += shape[0] if modulates else 0
    t5 = checkpoint.tensors(checkpoint.t5)
    embeddings = ("shared", "embed_tokens", "relative_attention_bias")
    text_linears = sum(
        math.prod(s)
        for name, s in t5.items()
        if len(s) == 2 and not any(word in name for word in embeddings)
    )
    text = sum(
        checkpoint.parameters(name)
        for name in checkpoint.components()
        if name.startswith("text_encoder")
    )
    return _Numbers(
        linears=linears,
        other=checkpoint.parameters("transformer") - linears,
        modulations=modulations,
        modulators=modulators,
        text_linears=text_linears,
        text_other=text - text_linears,
        vae=checkpoint.parameters("vae"),
    )


def _block_matrices(checkpoint: Checkpoint) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Shape of every matrix in the transformer's blocks, and whether it modulates: those are in a block's norms."""
    for name, shape in checkpoint.tensors("transformer").items():
        stack, *path = name.split(".")
        if len(shape) == 2 and stack.endswith("transformer_blocks"):
            yield shape, any(part.startswith("norm") for part in path)


def _rows(job: Job, checkpoint: Checkpoint, shape: Shape) -> int:
    pictures = min(job.engine.batch_size, shape.pictures)
    return pictures * (2 if shape.negative or checkpoint.contrasts else 1)


def _denoising(job: Job, checkpoint: Checkpoint, shape: Shape, size: int, modulations: int) -> int:
    config, cp = checkpoint.config("transformer"), job.parallel.degree
    width = config["num_attention_heads"] * config["attention_head_dim"]
    image, text = checkpoint.tokens(shape.width, shape.height, job.model.max_sequence_length)
    mine, all_tokens = -(-image // cp), image + text
    numbers = (20 if config.get("num_single_layers") else 16) * -(-all_tokens // cp) * width
    numbers += min(shape.steps, WINDOW) * modulations
    if job.cache.policy != "none":
        numbers += (4 + job.cache.taylor_order) * mine * width
    if job.engine.attention == "math":
        numbers += 2 * config["num_attention_heads"] * all_tokens**2 // cp
    return int(_rows(job, checkpoint, shape) * numbers * size)


def _encoding(job: Job, checkpoint: Checkpoint, shape: Shape, size: int) -> int:
    config, tokens = checkpoint.config(checkpoint.t5), job.model.max_sequence_length
    return int(
        _rows(job, checkpoint, shape)
        * tokens
        * (2 * config["num_heads"] * tokens + 4 * config["d_ff"])
        * size
    )


def _decoding(job: Job, checkpoint: Checkpoint, shape: Shape) -> int:
    narrow, wide = checkpoint.config("vae")["block_out_channels"][:2]
    return int(
        _pixels_at_once(shape, min(job.engine.batch_size, shape.pictures), job.parallel.degree)
        * max(16 * wide, 20 * narrow)
    )


def _pixels_at_once(shape: Shape, pictures: int, cp: int) -> float:
    """Px whose activations a rank holds together, counted as those of an undivided decode."""
    px = shape.width * shape.height
    if count := bands(shape.width, shape.height, cp):
        return px / cp * (BANDED if count > 1 else 1)
    return px * min(-(-pictures // cp), at_once(shape.width, shape.height))
