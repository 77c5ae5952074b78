"""How much memory of its device a rank takes: an estimate from weight files and picture sizes.

A device holds weights all the time, and more in three phases. A job needs the largest of them:

    encoding    the weights of the phase, what the text encoders compute, and the group before,
                which is being decoded
    denoising   the weights of the phase, what the blocks compute, modulations, the step cache, and
                the group before
    decoding    the same weights and what the VAE computes; a phase of its own only for several
                ranks, which do one thing after the other

Weights are exact: their number, times 4 bytes in fp32, 2 in bf16, 1 where `[precision]` quantizes
them. The rest follows from R rows (the pictures of a group, twice with classifier-free guidance;
half of them where a replica has two halves), S text and T image tokens of a rank, the transformer's
width D and its H heads, all in numbers:

    blocks          20·R·(S+T)·D of FLUX.1, Chroma and Z-Image, 25 of FLUX.2, 18 of ERNIE-Image, 17
                    of Qwen-Image, 16 of Stable Diffusion 3. The peak over all tensors of a step on
                    a CPU was 20 (fp32, also Z-Image), 23 (bf16), 16 (ERNIE-Image and Qwen-Image; 18
                    and 17 in bf16) and 15 (Stable Diffusion 3.5); on an emulated card in bf16 21
                    (FLUX.1-dev), 23.5 (FLUX.2 klein 4B), 18 (Z-Image), 17 (Qwen-Image), 13 to 14
                    (3.5 large), 14 to 15 (medium); torch.compile needs less
    8 bits          on CUDA, where blocks are not compiled, torchao writes out in between, of the
                    widest product: in FP8 what it reads, 5.3 numbers for each value; in int8 what
                    it makes, 2 numbers in int32 and 1 scaled, of which the blocks' peak has a part
                    already: 2.5. It reads 5·D of FLUX.1, 2.7·D of Z-Image and 4·D of the others; it
                    makes 7·D, 5.3·D, 9·D of FLUX.2, 6·D of ERNIE-Image and 4·D. On the emulated
                    card these were 5.3 (FLUX.1), 5.2 (FLUX.2) and 4.3 to 5.5; 2.3 to 2.7, 2.0 to
                    2.3 and 2.4 to 2.8
    modulations     R · min(steps, 32) · values of all blocks (engine/modulation.py)
    step cache      where a policy measures, 2·R·T·D: the signal and its reference, of which one
                    goes while all pictures compute, when the blocks take most. And
                    (taylor_order + 2)·4 bytes for each number of the pictures' latents, all
                    tokens: velocities. Measured together: 0.96 and 0.98 of it. With `record` it is
                steps·4 bytes
    attention       only "math" writes out scores and their softmax: 2·R·H·(S+T)² of all tokens / cp
    text encoding   R·S·(2·heads·S + 4·d_ff) of T5; of Qwen3 its hidden layers too, which
                    transformers keeps. Measured of T5: 1.4 times the scores in long texts,
                    5 times the hidden values in short ones

Decoding takes max(4·c₁, 5·c₀) numbers for each px that is decoded at once, where c₀ and c₁ are the
channels of the VAE's last two blocks; on CUDA 3.4·c₁. For FLUX.1 these are 4.1 kB on a CPU (3.9
measured in fp32; half of it in bf16, where 2.4 were measured) and 1.7 on CUDA in bf16: tensors take
1.4 to 1.5 there, on the emulated card, and the rest is for what convolutions want, which is not
known. Bands take 0.6 of it (0.61 there). The workspace is 1 GB on CUDA (context and libraries, an
assumption) and 0.5 on a CPU (Python with torch: 0.33 measured).

The emulated card (tests/cuda/) sums the bytes of tensors. Nothing was measured on a real one.

Not counted: fragmentation, compiling, what ranks exchange, and on a CPU trained weights before they
are quantized. The total may therefore be off by a quarter, and **a job is refused only where it
would not fit if all but the weights took half** (`Need.least`). On a CPU the weights are halved
too, because workers may share them, mapped from their files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from batchgen.engine.precision.rules import QUANTIZED
from batchgen.engine.sizes import at_once, bands
from batchgen.model import Checkpoint
from batchgen.planning.plan import Shape
from batchgen.planning.score_memory import score_memory
from batchgen.settings import Job

# Steps whose modulations are computed at once: as engine/modulation.py, which imports torch.
WINDOW = 32
WORKSPACE = {"cuda": 10**9, "cpu": 5 * 10**8}
# What decoding in bands takes, of what decoding the picture whole takes: engine/sizes.py.
BANDED = 0.6
# Numbers that blocks in 8 bits take more if they are not compiled: for each token and each value
# that the widest product reads, and that it makes.
_EAGER_8_BIT = {"fp8": (5.3, 0.0), "int8": (0.0, 2.5)}
# Linears that read the same tokens are one: as attention/fuse.py, which imports torch.
_STACKED = re.compile(r"(attn\.)?(to_[qkv]|proj_mlp)\b|\b(w[13]|gate_proj|up_proj)\b")
# Numbers of decoding for each px and each channel of the VAE's last block but one.
_DECODING = {"cuda": 3.4, "cpu": 4.0}
# Weights of the largest text encoder that are never quantized.
_EMBEDDINGS = ("shared", "embed_tokens", "relative_attention_bias")


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
    # Activations, modulations and the step cache.
    denoising: int
    decoding: int
    workspace: int
    phases: tuple[Phase, ...]
    # Whether weights may be shared with other workers.
    mapped: bool = False
    # Weights of the scorer, and what it computes; 0 without one.
    scorer: int = 0
    scoring: int = 0

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
        """What it takes at the very least, as the module says."""
        share = 2 if self.mapped else 1
        return max(phase.weights // share + phase.rest // 2 for phase in self.phases)


def estimate_memory(
    job: Job,
    checkpoint: Checkpoint,
    shapes: Sequence[Shape],
    *,
    cuda: bool,
    contrasted: bool = True,
) -> Need:
    """What each rank of a replica needs.

    :param shapes: of all pictures that are planned.
    :param cuda: on a CUDA card, where "auto" means bf16; else on a CPU.
    :param contrasted: whether some picture has classifier-free guidance, if any may have it.
    """
    if checkpoint.contrasts:  # with a negative prompt or without
        shapes = [shape._replace(negative=contrasted) for shape in shapes]
    size = _number_bytes(job, cuda=cuda)
    modulators: list[tuple[int, ...]] = []
    blocks: Counter[str] = Counter()
    for block, _, shape, modulates in _block_matrices(checkpoint):
        if modulates:
            modulators.append(shape)
        else:
            blocks[block] += prod(shape)
    numbers, linear_size = blocks.total(), 1 if job.precision.linear in QUANTIZED else size
    transformer = numbers * linear_size + (checkpoint.parameters("transformer") - numbers) * size
    encoders = _encoders(job, checkpoint, size)
    vae = checkpoint.parameters("vae") * size
    modulations = checkpoint.modulations
    if modulations is None:
        modulations = sum(shape[0] for shape in modulators)
    kind, offload = "cuda" if cuda else "cpu", job.engine.offload
    eager = cuda and (offload == "layers" or job.compile.mode == "none")
    denoising = max(
        _denoising(job, checkpoint, shape, modulations, eager=eager) for shape in shapes
    )
    denoising *= size
    decoding = max(_decoding(job, checkpoint, shape, _DECODING[kind]) for shape in shapes) * size
    encoding = max(_encoding(job, checkpoint, shape) for shape in shapes) * size

    # Blocks come in turn into two places, each large enough for any of them.
    moving = max(0, numbers - 2 * max(blocks.values(), default=0)) * linear_size
    # Modulators have left the transformer by then, and stay on the device.
    movable = {"model": transformer - sum(map(prod, modulators)) * size, "layers": moving}
    while_encoding = transformer - movable.get(offload, 0) + encoders + vae
    resident = transformer - (moving if offload == "layers" else 0) + vae
    resident += encoders if offload == "none" else 0
    workspace = WORKSPACE[kind]
    scorer, scoring = score_memory(checkpoint.scorer, job.engine.batch_size)
    # One rank decodes and scores the group before meanwhile. Several ranks decode by themselves.
    beside = workspace + max(scoring, decoding if job.parallel.degree == 1 else 0)
    phases = (
        Phase("encoding text", while_encoding + scorer, beside + encoding),
        Phase("denoising", resident + scorer, beside + denoising),
        Phase("decoding", resident + scorer, workspace + max(decoding, scoring)),
    )
    held = transformer, encoders, vae
    return Need(*held, denoising, decoding, workspace, phases, not cuda, scorer, scoring)


def _number_bytes(job: Job, *, cuda: bool) -> int:
    """Bytes of a number that is not quantized."""
    asked = job.precision.linear
    return 4 if asked == "fp32" or (asked != "bf16" and not cuda) else 2


def _encoders(job: Job, checkpoint: Checkpoint, size: int) -> int:
    """Bytes of the text encoders' weights; only linears of the largest one are ever quantized."""
    linears = sum(
        prod(shape)
        for name, shape in checkpoint.tensors(checkpoint.text).items()
        if len(shape) == 2 and not any(word in name for word in _EMBEDDINGS)
    )
    names = [name for name in checkpoint.components() if name.startswith("text_encoder")]
    other = sum(map(checkpoint.parameters, names)) - linears
    return linears * (1 if job.precision.text != "none" else size) + other * size


def _block_matrices(checkpoint: Checkpoint) -> Iterator[tuple[str, str, tuple[int, ...], bool]]:
    """Every matrix in the transformer's blocks: its block, name and shape, whether it modulates.

    The matrices in a block's norms compute modulations, or have a name that says so. Blocks may
    share theirs, outside.
    """
    for name, shape in checkpoint.tensors("transformer").items():
        stack, *path = name.split(".")
        if len(shape) != 2:
            continue
        if "modulation" in stack or stack == checkpoint.modulator:
            yield stack, name, shape, True
        elif stack in checkpoint.stacks:
            modulates = any(
                part.startswith("norm") or "modulation" in part or part.endswith("_mod")
                for part in path
            )
            yield f"{stack}.{path[0]}", name, shape, modulates


def _eager_8_bit(job: Job, checkpoint: Checkpoint) -> float:
    """Numbers that blocks in 8 bits take more for each token if they are not compiled."""
    of_read, of_made = _EAGER_8_BIT.get(job.precision.linear, (0.0, 0.0))
    read, made = 0, Counter[str]()
    for _, name, shape, modulates in _block_matrices(checkpoint):
        if not modulates:
            out, into = shape
            read = max(read, into)
            made[_STACKED.sub("attn.to_qkv", name)] += out
    return of_read * read + of_made * max(made.values())


def _rows(job: Job, shape: Shape) -> int:
    """Rows of a group that a rank computes: two for each picture with classifier-free guidance."""
    pictures = min(job.engine.batch_size, shape.pictures)
    return -(-pictures * (2 if shape.negative else 1) // job.parallel.halves)


def _denoising(
    job: Job, checkpoint: Checkpoint, shape: Shape, modulations: int, *, eager: bool
) -> int:
    """Numbers that a group's denoising takes beside the weights.

    :param eager: on CUDA, and blocks are not compiled.
    """
    cp = job.parallel.shared
    heads, width = checkpoint.heads, checkpoint.transformer.width
    image, text = checkpoint.tokens(shape.width, shape.height, job.model.max_sequence_length)
    of_token: float = checkpoint.activations * width
    of_token += _eager_8_bit(job, checkpoint) if eager else 0
    numbers = of_token * -(-(image + text) // cp)
    numbers += min(shape.steps, WINDOW) * modulations
    cache = job.cache
    if cache.policy in ("first_block", "teacache") or (cache.policy == "replay" and cache.blocks):
        numbers += 2 * -(-image // cp) * width
    if job.engine.attention == "math":
        numbers += 2 * heads * (image + text) ** 2 // cp
    rows = _rows(job, shape)
    return int(rows * numbers) + _velocities(job, checkpoint, shape, image)


def _velocities(job: Job, checkpoint: Checkpoint, shape: Shape, image: int) -> int:
    """fp32 numbers of the velocities that a cache keeps; a picture's, whatever its rows.

    :param image: tokens of a picture.
    """
    kept = job.cache.taylor_order + 2
    if job.cache.policy == "none":
        kept = shape.steps if job.cache.record else 0
    pictures = min(job.engine.batch_size, shape.pictures)
    # A token holds 2 × 2 latent pixels.
    channels = 4 * checkpoint.vae.latent_channels
    return pictures * kept * image * channels


def _encoding(job: Job, checkpoint: Checkpoint, shape: Shape) -> int:
    """Numbers that encoding a group's prompts takes beside the weights."""
    numbers = checkpoint.encoding_numbers(job.model.max_sequence_length)
    return _rows(job, shape) * numbers


def _decoding(job: Job, checkpoint: Checkpoint, shape: Shape, share: float) -> int:
    """Numbers that decoding a group takes beside the weights; `share` of `_DECODING`."""
    narrow, wide = checkpoint.vae.decoder_channels[:2]
    pictures, ranks = min(job.engine.batch_size, shape.pictures), job.parallel.degree
    return int(_pixels_at_once(shape, pictures, ranks) * max(share * wide, 5 * narrow))


def _pixels_at_once(shape: Shape, pictures: int, ranks: int) -> float:
    """Px whose activations a rank holds together, as many as if pictures were decoded whole."""
    px = shape.width * shape.height
    if count := bands(shape.width, shape.height, ranks):
        return px / ranks * (BANDED if count > 1 else 1)
    return px * min(-(-pictures // ranks), at_once(shape.width, shape.height))
