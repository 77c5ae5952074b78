"""How many kernels one compiled block launches on an H100: counted in Inductor's code, never run.

    python -m tests.cuda.launches GUARD.so '{"NAME": {"folder": "flux-dev", "linear": "fp8"}, …}'

The engine is built at true size on the emulated card, without numbers. Of each class of blocks the
first one goes through the engine's own `CompiledBlocks`, with what `TorchEngine.rehearse` hands it
for several rows, so that the batch is symbolic. Folders have configurations and tokenizers. Prints
what was counted of every block, as JSON.

What an opaque operator does within itself is one launch here: attention of families whose texts
keep their lengths, where it may be several and a copy (`lengths.py`).
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv[1]))  # before the program is imported

import diffusers
import torch
from torch import Tensor, nn

from batchgen.engine.build import build_engine
from batchgen.engine.compile.blocks import CompiledBlocks
from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.precision.quantize import Format, quantize_blocks
from batchgen.engine.precision.quantized_weights import QuantizedWeights
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Job, parse_job
from tests.cuda import lower, tensor
from tests.cuda.launch_mutants import put_in
from tests.support.full_size import quantize_alone, shapes_alone

SIDE_PX, TEXT_TOKENS, ROWS = 1024, 512, 4
# A kernel's name and the types of what it is given; and a call, below what it was made of.
_KERNEL = re.compile(r"^(triton_\w+) = async.*?'signature': (\{.*?\})", re.DOTALL | re.MULTILINE)
_CALL = re.compile(
    r"^ *(?:\w+ = )?(triton_\w+|extern_kernels|torch\.ops)\.([\w.]+)\(", re.MULTILINE
)
_MADE_OF = re.compile(r"Original ATen: \[([^\]]*)\]")
_ROUNDED = re.compile(r"'\w*out\w*': '\*(?:fp8|i8)")
# Operations that compute nothing.
_MOVES = re.compile(
    "cat|clone|expand|permute|select|slice|split|split_with_sizes|squeeze|stack|t|transpose"
    "|unsqueeze|view|_to_copy"
)
_ATTENTION = ("_scaled_dot_product", "batchgen.attend")


@dataclass(frozen=True)
class Launches:
    """What one block launches."""

    # Triton's kernels.
    triton: int
    # Those among them that only move or convert numbers.
    copies: int
    # Tensors that they round to 8 bits.
    rounded: int
    # Matrix products.
    products: int
    attention: int
    # Other kernels of libraries.
    others: int


def count(source: str) -> Launches:
    """The launches in the code of one graph."""
    kernels, calls = source.split("\nclass Runner", 1)
    types, found = dict(_KERNEL.findall(kernels)), Counter[str]()
    for call in _CALL.finditer(calls):
        whose, name = call.groups()
        if whose.startswith("triton"):
            found["triton"] += 1
            found["copies"] += _only_moves(_MADE_OF.findall(calls, 0, call.start())[-1])
            found["rounded"] += len(_ROUNDED.findall(types[whose]))
        elif name.startswith(_ATTENTION) or name.removeprefix("aten.").startswith(_ATTENTION):
            found["attention"] += 1
        else:
            found["products" if name.endswith("mm") else "others"] += 1
    return Launches(**{its.name: found[its.name] for its in fields(Launches)})


def _only_moves(made_of: str) -> bool:
    """Whether a kernel computes nothing. The library's kernel that reads it may be named too."""
    names = [name.removeprefix("aten.") for name in made_of.split(", ")]
    computed = [name for name in names if not _MOVES.fullmatch(name)]
    return all(name.startswith(_ATTENTION) or name.endswith("mm") for name in computed)


def launches(*, folder: str, linear: str = "bf16", mutant: str = "") -> dict[str, Any]:
    """What each kind of the engine's blocks launches."""
    sections = {
        "model": {"path": folder, "max_sequence_length": TEXT_TOKENS},
        "engine": {"device": "cuda", "batch_size": ROWS},
        "compile": {"mode": "none"},
        "precision": {"linear": linear},
    }
    job = parse_job(sections, "a test")
    with put_in(mutant):
        called = _rehearse(job)
        return {name: _count(block, inputs) for name, (block, inputs) in called.items()}


def _rehearse(job: Job) -> dict[str, tuple[nn.Module, dict[str, Any]]]:
    """The first block of each class, and what it is called with."""
    called: dict[str, tuple[nn.Module, dict[str, Any]]] = {}
    with (
        tensor.Emulation(),
        mock.patch("batchgen.engine.families.load_module", shapes_alone),
        mock.patch.object(QuantizedWeights, "install", quantize_alone),
    ):
        engine = build_engine(job, resolve(job.model))
        engine.family.blocks = [partial(_watch, called, block) for block in engine.family.blocks]
        engine.rehearse((SIDE_PX, SIDE_PX), ROWS)
    return called


def _watch(called: dict[str, Any], block: nn.Module, **inputs: Any) -> Any:
    called.setdefault(type(block).__name__, (block, inputs))
    return block(**inputs)


def _count(block: nn.Module, inputs: dict[str, Any]) -> dict[str, Any]:
    rows, tokens = inputs["hidden_states"].shape[:2]
    lower.strip(block)
    (compiled,) = CompiledBlocks([block], Compiler("default"), tokens={tokens}, rows=rows).blocks
    return asdict(count(lower.write(compiled, inputs)))


def launches_of_diffusers(*, folder: str, linear: str = "bf16") -> dict[str, Any]:
    """What diffusers' own blocks of FLUX.1 launch, compiled alike; modulations are within them.

    In FP8 the engine's quantization takes the same linears as it does of the engine's blocks.
    """
    config = json.loads((Path(folder) / "transformer" / "config.json").read_text())
    with torch.device("meta"):
        made = diffusers.FluxTransformer2DModel.from_config(config).to(torch.bfloat16).eval()
    blocks = [made.transformer_blocks[0], made.single_transformer_blocks[0]]
    with tensor.Emulation():
        blocks = [block.to("cuda") for block in blocks]
        if linear == "fp8":
            quantize_blocks(blocks, Format("fp8"))
        width, tokens = made.inner_dim, (SIDE_PX // 16) ** 2
        table = torch.empty(TEXT_TOKENS + tokens, made.config.attention_head_dim, device="cuda")
        shapes = {"hidden_states": [tokens, width], "encoder_hidden_states": [TEXT_TOKENS, width]}
        inputs: dict[str, Any] = {
            name: torch.empty(ROWS, *shape, dtype=torch.bfloat16, device="cuda")
            for name, shape in (shapes | {"temb": [width]}).items()
        }
    inputs["image_rotary_emb"] = table, table
    with mock.patch.object(nn.functional, "scaled_dot_product_attention", _attend):
        return {type(block).__name__: _count(block, inputs) for block in blocks}


def _attend(query: Tensor, key: Tensor, value: Tensor, **_: Any) -> Tensor:
    """The kernel that PyTorch chooses on this card; a build for CPUs would write the formula."""
    operator: Any = torch.ops.aten._scaled_dot_product_cudnn_attention
    out: Tensor = operator(query, key, value, None, compute_log_sumexp=False)[0]
    return out


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    peer = settings.pop("peer", False)
    return launches_of_diffusers(**settings) if peer else launches(**settings)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tensor.place = torch.device("meta")
    lower.prepare()
    print(json.dumps({name: _run(its) for name, its in json.loads(sys.argv[2]).items()}))
