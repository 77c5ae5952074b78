"""FP8 and int8: the blocks' linears multiplied in 8 bits, the text encoder's stored in 8 bits.

A linear y = x·Wᵀ + b, x [rows, K], W [N, K], becomes

    y[i,j] = s_x[i] · s_w[j] · Σ_k q_x[i,k] · q_w[j,k] + b[j]        s = max|·| / largest,  q = round(· / s)

with q in FP8 (e4m3: 4 bits of exponent, 3 of mantissa, largest 448) or int8 (127.5, then cut at 127), and the sum in fp32 or int32.
Weights are quantized once. Activations are quantized at every call from their own values: nothing is calibrated, nothing is remembered.

**Why per row.** A row of x is a token, a row of W an output feature. With a scale for each, what becomes of a token depends on that
token alone: not on the other pictures of the group, nor on which rank holds which tokens; an infinity or NaN spoils only the picture it
is in. One scale for the whole of x (`granularity = "tensor"`) is the largest value of the batch, so that one loud picture coarsens all
others. It is refused for groups and for several ranks, unless forced (`precision_rules.check_independence`).

**Rounding.** FP8 keeps 4 significant bits of every number down to 1/28672 of its row's largest: 2.6% rms a factor, √2 of that a product,
and since errors are independent a sum keeps the ratio: 3.7% of y's norm. int8 has equal steps of max|row| / 127.5: 1.2% for Gaussian
rows of 3072, but a row with outliers loses its small values, which FP8 keeps. Measured on Gaussian x and W, K from 128 to 3072: FP8 3.3%
to 3.7%, int8 0.9% to 1.2%. A value next to a rounding threshold tips over for any reason: in a whole FLUX block in bf16, compiling, which
moves an unquantized block by 1%, moves an FP8 one by 4%. So FP8 is compared bit for bit where inputs are equal, and by distance elsewhere.

**Layout.** The product takes x by rows and Wᵀ by columns, which is W [N, K] as it lies in memory. Both sides must be multiples of 16 (8
for int8). torchao leaves a linear that is not as it was, without a word; here it is an error. On CUDA an FP8 product gives bf16. On a
CPU weights and activations may be fp32, and the product is too.

**What is quantized.** Every linear inside the transformer blocks but modulations. In FLUX.1 these are 418, or 266 once q, k and v are
one, and 8.6 of its 11.9 billion weights. Embedders, modulations, the last norm and projection stay as they are: they see few rows, so
that there is little to gain, and every token hangs on them. A matrix in a block that is none of these is an error as well.

**What it costs.** Quantizing x reads it twice. Compiled, that melts into the operations before; eagerly it is a handful of kernels a
linear, which may take more than they save. On a CPU FP8 gains nothing and is there for rehearsals: numbers are unpacked to fp32 first.
1024×3072×3072 on one thread of a server CPU with AMX: bf16 24 ms, fp32 187 ms; FP8 294 and 380 ms, int8 80 ms from either.

**The text encoder** runs once a group. There only weights are stored in 8 bits, and unpacked at every use: memory, for some time.

torchao does the arithmetic: its `Float8Tensor` and `Int8Tensor` stand where a weight was, and torch.compile sees through them. PyTorch's
own kernels are asked for by name, so that rounding does not change with what else is installed.
FP8 formats: https://arxiv.org/abs/2209.05433. int8 with a scale a row of both: https://arxiv.org/abs/2208.07339.

What is not covered:
- e5m2, static scales, smoothing of outliers, layers of a precision of their own; cards other than NVIDIA's.
- On CUDA the library may choose another algorithm for another number of rows. Whether rows stay equal to the bit there is untried.
- int8 on CUDA without compiling: it works, slowly. It needs 17 rows (`precision_rules.check_tokens`).
- Moving quantized modules to another device inside `torch.inference_mode`, which PyTorch cannot do; outside of it they move.
- FP8 per tensor on a CPU, which `precision_rules.check_precision` refuses: PyTorch has only a reference kernel for it.
"""

from __future__ import annotations

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
from torchao.utils import should_reduce_range

from batchgen.engine.precision.rules import Granularity, Quantized, check_precision
from batchgen.errors import ModelError

SIDE_MULTIPLE = 16  # both sides of a weight
_LEAST = (
    1e-12  # taken for the maximum of a row of zeros, whose scale would be 0 and whose values 0/0
)
_FAST = Float8MMConfig(
    use_fast_accum=True
)  # partial sums stay in the tensor cores, in fewer bits than fp32; a CPU ignores it


@dataclass(frozen=True, slots=True)
class Format:
    """How a weight is stored, and how it is multiplied with."""

    linear: Quantized
    granularity: Granularity = "row"
    weight_only: bool = False  # stored in 8 bits, unpacked at use
    reduced: bool = False  # int8 to ±63: the instructions of older CPUs overflow beyond

    def quantize(self, weight: Tensor) -> Tensor:
        """The weight [N, K] in 8 bits."""
        if self.linear == "fp8":
            packed = Float8Tensor.from_hp(
                weight,
                granularity=self._scope(),
                hp_value_lb=_LEAST,
                kernel_preference=KernelPreference.TORCH,
                mm_config=_FAST,
            )
        else:
            packed = Int8Tensor.from_hp(weight, granularity=PerRow(), reduce_range=self.reduced)
        return self.assemble(packed.qdata, packed.scale, weight.dtype)

    def assemble(self, qdata: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
        """A weight from its parts.

        :param qdata: [N, K], FP8 or int8.
        :param scale: fp32, [N, 1]; [1, 1] per tensor.
        :param dtype: what it was quantized from.
        """
        block = (
            [1, qdata.shape[1]] if self.granularity == "row" else [-1, -1]
        )  # all; in numbers, 128×128 would be taken for a tile
        weight: Tensor
        if self.linear == "int8":
            int8 = (
                None
                if self.weight_only
                else QuantizeTensorToInt8Kwargs(PerRow(), reduce_range=self.reduced)
            )
            zero = torch.zeros_like(scale, dtype=torch.int8)
            weight = Int8Tensor(
                qdata,
                scale,
                block,
                dtype,
                zero_point=zero,
                act_quant_kwargs=int8,
                reduce_range=self.reduced,
            )
        else:
            ours = KernelPreference.TORCH
            fp8 = QuantizeTensorToFloat8Kwargs(
                granularity=self._scope(),
                mm_config=_FAST,
                hp_value_lb=_LEAST,
                kernel_preference=ours,
            )
            weight = Float8Tensor(
                qdata, scale, block, _FAST, None if self.weight_only else fp8, ours, dtype
            )
        return weight

    def _scope(self) -> PerRow | PerTensor:
        return PerRow() if self.granularity == "row" else PerTensor()


def choose_format(linear: Quantized, granularity: Granularity, device: torch.device) -> Format:
    """How this device multiplies.

    :raises JobError: it cannot.
    """
    check_precision(
        linear,
        granularity,
        torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
    )
    return Format(linear, granularity, reduced=linear == "int8" and should_reduce_range(device))


def quantize_blocks(
    blocks: Sequence[nn.Module], how: Format, device: torch.device | None = None
) -> int:
    """Quantize every linear of the blocks but modulations, in place, and count them.

    :param device: where 8-bit weights go, one after the other: the trained ones are never there together. None: they stay.
    :raises ModelError: a block holds a matrix that cannot be quantized; none has been changed then.
    """
    linears = quantizable(blocks)
    for module in linears.values():
        quantize_linear(module, how, device)
    done = sum(is_quantized(weight) for block in blocks for weight in block.parameters())
    assert done == len(linears), f"{done} of {len(linears)} linears are quantized"
    return done


def quantize_text(encoder: nn.Module, linear: Quantized, device: torch.device | None = None) -> int:
    """Store the weights of every linear of a text encoder in 8 bits, in place, and count them.

    :param device: as in `quantize_blocks`.
    :raises ModelError: it has none.
    """
    linears = [module for module in encoder.modules() if type(module) is nn.Linear]
    if not linears:
        raise ModelError(
            f"{type(encoder).__name__} holds no linear to quantize; --set precision.text=none"
        )
    for module in linears:
        quantize_linear(module, Format(linear, weight_only=True), device)
    return len(linears)


@torch.inference_mode(mode=False)  # where a weight of two tensors can be neither moved nor detached
@torch.no_grad()
def quantize_linear(module: nn.Linear, how: Format, device: torch.device | None = None) -> None:
    """Quantize one linear's weight, in place; on a device, if one is named, where it stays."""
    module.weight = nn.Parameter(
        how.quantize(module.weight.detach().to(device=device)), requires_grad=False
    )


def is_quantized(weight: Tensor) -> TypeGuard[Float8Tensor | Int8Tensor]:
    """Whether it consists of `qdata` and `scale`."""
    return isinstance(weight, Float8Tensor | Int8Tensor)


def quantizable(blocks: Sequence[nn.Module]) -> dict[str, nn.Linear]:
    """Every linear of the blocks but modulations, by place in the list and name: `17.attn.to_qkv`.

    Modulations are what lies in a block's norms.

    :raises ModelError: one is of a size that 8-bit products do not take, or a matrix is not the weight of a linear.
    """
    found = {}
    for number, block in enumerate(blocks):
        for name, module in block.named_modules():
            matrices = [
                tuple(weight.shape)
                for weight in module.parameters(recurse=False)
                if weight.ndim > 1
            ]
            if not matrices or _is_modulation(name):
                continue
            where = f"{type(block).__name__} {number}: {name}, {type(module).__name__} {'×'.join(map(str, matrices[0]))}"
            if type(module) is not nn.Linear:
                raise ModelError(
                    f"{where}: not a linear that can be quantized; --set precision.linear=bf16"
                )
            if any(side % SIDE_MULTIPLE for side in matrices[0]):
                raise ModelError(
                    f"{where}: 8-bit products need multiples of {SIDE_MULTIPLE}; --set precision.linear=bf16"
                )
            found[f"{number}.{name}"] = module
    return found


def _is_modulation(name: str) -> bool:
    return any(part.startswith("norm") for part in name.split("."))
