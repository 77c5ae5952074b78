"""FP8 and int8: the blocks multiply in 8 bits; the text encoder only stores its weights so.

A linear y = x·Wᵀ + b, x [rows, K], W [N, K], becomes

    y[i,j] = s_x[i] · s_w[j] · Σ_k q_x[i,k] · q_w[j,k] + b[j]
    s = max|·| / largest,  q = round(· / s)

with q in FP8 (e4m3: 4 bits of exponent, 3 of mantissa, largest 448) or int8 (largest 127.5, cut at
127), and the sum in fp32 or int32. Weights are quantized once. Activations are quantized at every
call from their own values: there is no calibration.

**Scales.** A row of x is a token, a row of W an output feature. With a scale for each row, a token
depends neither on the other pictures of the group nor on the rank that holds it, and a NaN spoils
only its own picture. One scale for all of x (`granularity = "tensor"`) is the largest value of the
batch: one picture coarsens all others. `rules.check_independence` refuses it unless forced.

**Rounding.** FP8 keeps 4 significant bits of numbers down to 1/28672 of their row's largest: an
error of 2.6% rms a factor, so 3.7% of a product and, as errors are independent, of a sum's norm.
int8 has equal steps: 1.2% for Gaussian rows of 3072, but a row with outliers loses its small
values. Measured on Gaussian x and W, K from 128 to 3072: FP8 3.3% to 3.7%, int8 0.9% to 1.2%. On
CPUs without VNNI, int8 has one bit less and twice that error (`_int8_saturates`). A value near a
rounding threshold can tip for any reason: compiling moves an unquantized FLUX block in bf16 by 1%,
and one in FP8 by 4%.

**Layout.** Both sides of W must be multiples of 16 (8 would do for int8). torchao skips other
linears in silence; here they are an error. On CUDA an FP8 product gives bf16; on a CPU fp32 works.

**What is quantized.** All linears in the transformer's blocks except modulations: in FLUX.1 418,
or 228 once those of one input are stacked, with 8.6 of its 11.9 billion weights. All else keeps its
precision: those layers see few rows, so little is gained, and every token depends on them.

**Cost.** Quantizing x reads it twice. Compiled code fuses that into the operations before; eager
mode needs several kernels a linear. On a CPU, FP8 is only for rehearsals: it is unpacked to fp32.
1024×3072×3072 on one thread with AMX: from bf16, 24 ms plain, 294 ms in FP8, 80 ms in int8; from
fp32, 187, 380 and 80 ms.

torchao does the arithmetic: `Float8Tensor` and `Int8Tensor` take the place of weights, and
torch.compile traces through them. PyTorch's own kernels are requested by name, so that rounding
does not depend on other installed packages. FP8 formats: https://arxiv.org/abs/2209.05433.
int8 with a scale for each row of both factors: https://arxiv.org/abs/2208.07339.

Not covered:
- e5m2, static scales, smoothing of outliers, a precision for each layer; cards not from NVIDIA.
- On CUDA the library may choose another algorithm for another number of rows. Whether rows then
  stay equal to the bit is untested.
- int8 on CUDA in eager mode works, slowly, from 17 rows on (`rules.check_tokens`).
- PyTorch cannot move quantized modules to another device inside `torch.inference_mode`.
- FP8 per tensor on a CPU: PyTorch has only a reference kernel (`rules.check_precision`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torchao.float8.inference import Float8MMConfig
from torchao.quantization import Float8Tensor, Int8Tensor, PerRow, PerTensor
from torchao.quantization.quantize_.common import KernelPreference
from torchao.quantization.quantize_.workflows import (
    QuantizeTensorToFloat8Kwargs,
    QuantizeTensorToInt8Kwargs,
)

from batchgen.engine.precision.rules import Granularity, Quantized, check_precision
from batchgen.errors import ModelError

SIDE_MULTIPLE = 16  # both sides of a weight
# The least maximum of a row. A row of zeros would have the scale 0, and its values would be 0/0.
_LEAST = 1e-12
# Partial sums stay in the tensor cores, in fewer bits than fp32. CPUs ignore this.
_FAST = Float8MMConfig(use_fast_accum=True)


@dataclass(frozen=True, slots=True)
class Format:
    """How a weight is stored and multiplied."""

    linear: Quantized
    granularity: Granularity = "row"
    # The weight is stored in 8 bits and unpacked at use.
    weight_only: bool = False
    # int8 ends at -64 and 63, see `_int8_saturates`.
    reduced: bool = False

    def quantize(self, weight: Tensor) -> Tensor:
        """The weight [N, K] in 8 bits: `qdata` [N, K] and `scale` [N, 1], or [1, 1] per tensor."""
        packed: Tensor
        if self.linear == "int8":
            int8 = QuantizeTensorToInt8Kwargs(PerRow(), reduce_range=self.reduced)
            packed = Int8Tensor.from_hp(
                weight,
                granularity=PerRow(),
                act_quant_kwargs=None if self.weight_only else int8,
                reduce_range=self.reduced,
            )
            return packed
        how = {
            "granularity": PerRow() if self.granularity == "row" else PerTensor(),
            "mm_config": _FAST,
            "hp_value_lb": _LEAST,
            "kernel_preference": KernelPreference.TORCH,
        }
        fp8 = None if self.weight_only else QuantizeTensorToFloat8Kwargs(**how)
        packed = Float8Tensor.from_hp(weight, act_quant_kwargs=fp8, **how)
        if self.granularity == "tensor":
            # In numbers, torchao would take 128×128 for a tile.
            packed.block_size = [-1, -1]  # type: ignore[attr-defined]
        return packed


def choose_format(linear: Quantized, granularity: Granularity, device: torch.device) -> Format:
    """The format of the blocks' linears on this device.

    :raises JobError: the device cannot multiply so.
    """
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    check_precision(linear, granularity, capability)
    reduced = linear == "int8" and device.type == "cpu" and _int8_saturates()
    return Format(linear, granularity, reduced=reduced)


@functools.cache
def _int8_saturates() -> bool:
    """Whether PyTorch's int8 product is wrong on this CPU for numbers of the full range.

    AVX2 and AVX-512 without VNNI add pairs of products in 16 bits, which saturate: 255 · 127 · 2
    does not fit (oneDNN shifts one factor to 0…255). Numbers from -64 to 63 always fit, at twice
    the rounding. Asked of the product itself, since oneDNN can be limited by its environment.
    """
    largest = torch.full((32, 64), 127, dtype=torch.int8)
    return not torch.equal(
        torch._int_mm(largest, largest.T), torch.full((32, 32), 64 * 127**2, dtype=torch.int32)
    )


def quantize_blocks(
    blocks: Sequence[nn.Module], how: Format, device: torch.device | None = None
) -> int:
    """Quantize every linear of the blocks except modulations, in place, and count them.

    :param device: where the 8-bit weights go, one after the other, so that the device never holds
        all trained ones. None: weights stay where they are.
    :raises ModelError: a block holds a matrix that cannot be quantized. Nothing is changed then.
    """
    linears = quantizable(blocks)
    for module in linears.values():
        quantize_linear(module, how, device)
    done = sum(is_quantized(weight) for block in blocks for weight in block.parameters())
    assert done == len(linears), f"{done} of {len(linears)} linears are quantized"
    return done


def quantize_text(encoder: nn.Module, linear: Quantized, device: torch.device | None = None) -> int:
    """Store the weights of a text encoder's linears in 8 bits, in place, and count them.

    It runs once a group and unpacks each weight at use: less memory, more time.

    :param device: as in `quantize_blocks`.
    :raises ModelError: the encoder has no linear.
    """
    linears = [module for module in encoder.modules() if type(module) is nn.Linear]
    if not linears:
        name = type(encoder).__name__
        raise ModelError(f"{name} holds no linear to quantize; --set precision.text=none")
    for module in linears:
        quantize_linear(module, Format(linear, weight_only=True), device)
    return len(linears)


@torch.inference_mode(mode=False)  # in it, a quantized weight could be neither moved nor detached
@torch.no_grad()
def quantize_linear(module: nn.Linear, how: Format, device: torch.device | None = None) -> None:
    """Quantize one linear's weight, in place, and move it to the device if one is given."""
    weight = how.quantize(module.weight.detach().to(device=device))
    module.weight = nn.Parameter(weight, requires_grad=False)


def is_quantized(weight: Tensor) -> TypeGuard[Float8Tensor | Int8Tensor]:
    """Whether the weight consists of `qdata` and `scale`."""
    return isinstance(weight, Float8Tensor | Int8Tensor)


def quantizable(blocks: Sequence[nn.Module]) -> dict[str, nn.Linear]:
    """Every linear of the blocks except modulations, by its block's number and its name.

    For example `17.attn.to_qkv`, `20.to_qkv_mlp`. Modulations are the linears inside a block's
    norms.

    :raises ModelError: a matrix is not the weight of a linear, or its size does not fit.
    """
    found = {}
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            weights = module.parameters(recurse=False)
            matrices = [tuple(weight.shape) for weight in weights if weight.ndim > 1]
            if not matrices or any(part.startswith("norm") for part in name.split(".")):
                continue
            kind, size = type(module).__name__, "×".join(map(str, matrices[0]))
            where = f"{type(block).__name__} {number}: {name}, {kind} {size}"
            bf16 = "--set precision.linear=bf16"
            if type(module) is not nn.Linear:
                raise ModelError(f"{where}: not a linear that can be quantized; {bf16}")
            if any(side % SIDE_MULTIPLE for side in matrices[0]):
                need = f"8-bit products need multiples of {SIDE_MULTIPLE}"
                raise ModelError(f"{where}: {need}; {bf16}")
            found[f"{number}.{name}"] = module
    return found
