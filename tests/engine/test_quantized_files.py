"""Quantized blocks come back from a file as they were; a file of anything else is refused and says why."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torchao.quantization import Float8Tensor, Int8Tensor

from batchgen.engine.quantize import Format, quantize_blocks
from batchgen.engine.quantized_files import load_quantized, save_quantized
from batchgen.errors import ModelError
from batchgen.models import TINY

CPU = torch.device("cpu")
FP8 = Format("fp8")


def load_blocks():
    transformer = FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer").eval()
    return [transformer.transformer_blocks[1], transformer.single_transformer_blocks[0]]


def quantized_blocks(kind="fp8"):
    blocks = load_blocks()
    quantize_blocks(blocks, kind, "row", CPU)
    return blocks


@torch.inference_mode()
def call(blocks):
    torch.manual_seed(0)
    image, text, temb = torch.randn(2, 64, 128), torch.randn(2, 32, 128), torch.randn(2, 128)
    for block in blocks:
        text, image = block(
            hidden_states=image, encoder_hidden_states=text, temb=temb, image_rotary_emb=(torch.ones(96, 32), torch.zeros(96, 32))
        )
    return image


@pytest.fixture
def file(tmp_path):
    """Two blocks in FP8."""
    save_quantized(tmp_path / "blocks.safetensors", quantized_blocks(), FP8, "sha256:1")
    return tmp_path / "blocks.safetensors"


@pytest.mark.parametrize(("kind", "start"), [("fp8", "cpu"), ("int8", "meta")])
def test_blocks_come_back_to_the_bit(tmp_path, kind, start):
    blocks, path = quantized_blocks(kind), tmp_path / "blocks.safetensors"
    save_quantized(path, blocks, Format(kind), "sha256:1")
    fresh = [block.to(start) for block in load_blocks()]
    assert load_quantized(path, fresh, Format(kind), "sha256:1", CPU) == 12 + 5
    packed = [weight for block in fresh for weight in block.parameters() if isinstance(weight, Float8Tensor | Int8Tensor)]
    originals = [weight for block in blocks for weight in block.parameters() if isinstance(weight, Float8Tensor | Int8Tensor)]
    assert len(packed) == 17
    for one, other in zip(packed, originals, strict=True):
        assert torch.equal(one.qdata.view(torch.int8), other.qdata.view(torch.int8))
        assert torch.equal(one.scale, other.scale)
        assert one._quantization_type() == other._quantization_type() if kind == "fp8" else one.act_quant_kwargs == other.act_quant_kwargs
    assert torch.equal(call(fresh), call(blocks))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_holds_plain_tensors_of_8_bits_and_their_scales(file):
    with safe_open(file, "pt") as tensors:
        names = set(tensors.keys())
        qdata, scale = (tensors.get_tensor(f"0.attn.to_out.0.weight.{part}") for part in ("qdata", "scale"))
        words = json.loads(tensors.metadata()["batchgen"])
    assert (qdata.dtype, qdata.shape, scale.dtype, scale.shape) == (torch.float8_e4m3fn, (128, 128), torch.float32, (128, 1))
    assert {"0.attn.to_out.0.bias", "0.norm1.linear.weight", "1.proj_mlp.weight.qdata"} <= names
    assert words == {
        "version": 1,
        "linear": "fp8",
        "granularity": "row",
        "weight_only": False,
        "reduced": False,
        "from": ["torch.float32"],
        "source": "sha256:1",
    }


@pytest.mark.parametrize(
    ("how", "source", "complaint"),
    [
        (Format("int8"), "sha256:1", "linear = 'fp8', and 'int8' is wanted"),
        (replace(FP8, granularity="tensor"), "sha256:1", "granularity = 'row', and 'tensor' is wanted"),
        (FP8, "sha256:2", "source = 'sha256:1', and 'sha256:2' is wanted"),
    ],
)
def test_a_file_made_otherwise_or_from_other_weights_is_refused(file, how, source, complaint):
    blocks = load_blocks()
    with pytest.raises(ModelError, match=rf"blocks\.safetensors: was made with {complaint}\. Delete it"):
        load_quantized(file, blocks, how, source, CPU)
    assert not any(isinstance(weight, Float8Tensor) for block in blocks for weight in block.parameters())


def test_a_file_from_another_type_is_refused(file):
    with pytest.raises(ModelError, match=r"from = \['torch.float32'\], and \['torch.bfloat16'\] is wanted"):
        load_quantized(file, [block.bfloat16() for block in load_blocks()], FP8, "sha256:1", CPU)


def test_a_file_for_other_blocks_is_refused(file):
    blocks = load_blocks()
    with pytest.raises(ModelError, match=r"\d+ tensors are for other blocks: 1\.attn.* is \[128\], and not in the model is wanted"):
        load_quantized(file, blocks[:1], FP8, "sha256:1", CPU)
    blocks[1].proj_mlp = nn.Linear(128, 1024)
    with pytest.raises(ModelError, match=r"3 tensors .* 1\.proj_mlp\.bias is \[512\], and \[1024\] is wanted; 1\.proj_mlp\.weight\.qdata"):
        load_quantized(file, blocks, FP8, "sha256:1", CPU)


def test_a_file_that_is_missing_cut_short_or_not_ours_is_refused(file):
    with pytest.raises(ModelError, match="no such file"):
        load_quantized(file.with_name("other"), load_blocks(), FP8, "sha256:1", CPU)
    save_file(load_file(file), file.with_name("plain"))
    with pytest.raises(ModelError, match="plain: not a file of weights that batchgen quantized"):
        load_quantized(file.with_name("plain"), load_blocks(), FP8, "sha256:1", CPU)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"has \d+ bytes, its header promises"):
        load_quantized(file, load_blocks(), FP8, "sha256:1", CPU)


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    blocks = quantized_blocks()
    blocks[0].norm1.linear.to("meta")
    with pytest.raises(Exception, match="meta"):
        save_quantized(tmp_path / "blocks.safetensors", blocks, FP8, "sha256:1")
    assert not list(tmp_path.iterdir())
