"""Fused blocks compute what stock blocks do, and compile for all shapes without a break."""

from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._inductor import compile_fx

from batchgen.engine.attention.fuse import find_attentions, fuse_projections
from batchgen.engine.attention.joint import install_attention
from batchgen.engine.attention.kernels import choose_attention
from batchgen.engine.compile.blocks import CompiledBlocks
from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.modulation import hoist_modulations
from batchgen.model import TINY

TEXT, WIDTH, HEAD = 8, 128, 32
MODULATIONS = 12 * WIDTH, 3 * WIDTH


def load_blocks() -> list[nn.Module]:
    """A double and a single block of the embedded model, whose modulations are inputs."""
    model = FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer").eval()
    blocks = [model.transformer_blocks[0], model.single_transformer_blocks[0]]
    hoist_modulations(blocks)
    return blocks


def load_fused() -> list[nn.Module]:
    blocks = load_blocks()
    attentions = find_attentions(blocks)
    fuse_projections(blocks, attentions)
    attend, _ = choose_attention("auto", torch.device("cpu"), torch.float32)
    install_attention(attentions, attend, attend)
    return blocks


def make_inputs(rows: int, tokens: int, modulations: int) -> dict[str, Any]:
    torch.manual_seed(rows)
    return {
        "hidden_states": torch.randn(rows, tokens, WIDTH),
        "encoder_hidden_states": torch.randn(rows, TEXT, WIDTH),
        "temb": torch.randn(rows, modulations),
        "image_rotary_emb": tuple(torch.randn(TEXT + tokens, HEAD) for _ in range(2)),
    }


@torch.inference_mode()
def test_fused_blocks_compute_what_stock_blocks_do() -> None:
    """fp32: equal but for the order of sums, which a larger matrix product may change."""
    for stock, fused, size in zip(load_blocks(), load_fused(), MODULATIONS, strict=True):
        inputs = make_inputs(2, 16, size)
        torch.testing.assert_close(fused(**inputs), stock(**inputs), rtol=1e-5, atol=1e-5)


def test_nothing_that_was_fused_is_left() -> None:
    names = {name for block in load_fused() for name, _ in block.named_parameters()}
    linears = {name.removesuffix(".weight") for name in names if "norm" not in name}
    assert {name for name in linears if "bias" not in name} == {
        *("attn.to_qkv", "attn.to_added_qkv", "attn.to_out.0", "attn.to_add_out"),
        *(f"{ff}.net.{layer}" for ff in ("ff", "ff_context") for layer in ("0.proj", "2")),
        *("to_qkv_mlp", "proj_out"),
    }
    assert {name for name in names if "norm" in name} == {
        "attn.norm_qk.weight",
        "attn.norm_added_qk.weight",
    }


@pytest.mark.slow
@torch.inference_mode()
def test_fused_blocks_take_one_graph_for_all_sizes_and_one_more_for_several_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compile_fx, "compile_fx", lambda graph, *_, **__: graph)
    compiler, blocks = Compiler("default"), load_fused()
    compiled = CompiledBlocks(blocks, compiler, tokens=(16, 24), rows=3, static=1)

    def run(tokens: int, rows: int) -> None:
        for block, fast, size in zip(blocks, compiled.blocks, MODULATIONS, strict=True):
            inputs = make_inputs(rows, tokens, size)
            torch.testing.assert_close(fast(**inputs), block(**inputs), rtol=1e-5, atol=1e-5)

    compiled.warm(run, (16, 24))
    made = compiler.compilation
    assert (made.graphs, made.breaks, made.recompilations) == (4, 0, 0)
