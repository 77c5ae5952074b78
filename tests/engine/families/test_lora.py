"""LoRA files of every accepted spelling change the weights by scale · (alpha / rank) · B·A.

Everything else in such a file is refused.
"""

import json

import pytest
import torch
from safetensors.torch import save_file

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.lora import fuse_lora
from batchgen.errors import ModelError
from batchgen.model.checkpoint import resolve
from tests.support.stock import make_job, make_picture

RANK = 4
QUERY = "transformer_blocks.0.attn.to_q"
KOHYA_QUERY = "lora_transformer_transformer_blocks_0_attn_to_q"
DIFFUSERS = ("lora_A.weight", "lora_B.weight")
KOHYA = ("lora_down.weight", "lora_up.weight")


def matrices(out_features, in_features):
    """Random B [out, rank] and A [rank, in]."""
    generator = torch.Generator().manual_seed(0)
    up = torch.randn(out_features, RANK, generator=generator)
    return up, torch.randn(RANK, in_features, generator=generator)


def tensors(module, up, down, parts=DIFFUSERS):
    """A LoRA's tensors for one module, under the names of a format."""
    return {f"{module}.{parts[0]}": down, f"{module}.{parts[1]}": up}


@pytest.fixture
def flux(model_folder):
    """A fresh model as loaded, before any technique. Fusing changes it."""
    job = make_job(model_folder)
    return load_family(resolve(job.model), choose_device(job.engine), job.model.max_sequence_length)


@pytest.fixture
def fuse(flux, tmp_path):
    """Saves tensors as a LoRA file and fuses it into the model; returns the number of linears."""

    def save_and_fuse(content, scale=1.0, metadata=None):
        path = tmp_path / "lora.safetensors"
        save_file(content, path, metadata=metadata)
        return fuse_lora(flux.lora_targets(), path, scale)

    return save_and_fuse


def weight(flux, module):
    return flux.transformer.get_submodule(module).weight.detach().clone()


@pytest.mark.parametrize(
    ("module", "parts"),
    [(f"transformer.{QUERY}", DIFFUSERS), (QUERY, DIFFUSERS), (KOHYA_QUERY, KOHYA)],
)
def test_a_linear_gets_scale_times_alpha_over_rank_times_its_product(flux, fuse, module, parts):
    b, a = matrices(128, 128)
    before = weight(flux, QUERY)
    content = tensors(module, b, a, parts) | {f"{module}.alpha": torch.tensor(2.0)}
    assert fuse(content, scale=0.5) == 1
    expected = before + 0.5 * (2.0 / RANK) * b @ a
    assert torch.allclose(weight(flux, QUERY), expected, atol=1e-6)


def test_without_alpha_the_product_is_added_as_it_is(flux, fuse):
    b, a = matrices(128, 128)
    before = weight(flux, QUERY)
    fuse(tensors(f"transformer.{QUERY}", b, a))
    assert torch.allclose(weight(flux, QUERY), before + b @ a, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"lora_alpha": 8}, 8 / RANK),
        ({"lora_alpha": 8, "use_rslora": True}, 8 / RANK**0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"attn.to_q": 2}}, 2 / RANK),
        ({"lora_alpha": 8, "alpha_pattern": {"attn.to_k": 2}}, 8 / RANK),
    ],
)
def test_alpha_is_read_from_the_adapter_metadata_of_diffusers(flux, fuse, settings, factor):
    b, a = matrices(128, 128)
    adapter = json.dumps({f"transformer.{name}": value for name, value in settings.items()})
    before = weight(flux, QUERY)
    metadata = {"lora_adapter_metadata": adapter}
    fuse(tensors(f"transformer.{QUERY}", b, a), metadata=metadata)
    assert torch.allclose(weight(flux, QUERY), before + factor * b @ a, atol=1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lora_unet_double_blocks_1_img_attn_qkv", ["to_q", "to_k", "to_v"]),
        (
            "diffusion_model.double_blocks.1.txt_attn.qkv",
            ["add_q_proj", "add_k_proj", "add_v_proj"],
        ),
    ],
)
def test_stacked_linears_of_kohya_and_bfl_are_cut_into_their_rows(flux, fuse, theirs, ours):
    b, a = matrices(3 * 128, 128)
    modules = [f"transformer_blocks.1.attn.{name}" for name in ours]
    before = [weight(flux, module) for module in modules]
    assert fuse(tensors(theirs, b, a, KOHYA)) == 3
    for module, old, delta in zip(modules, before, (b @ a).split(128), strict=True):
        assert torch.allclose(weight(flux, module), old + delta, atol=1e-6)


def test_a_single_block_of_kohya_changes_attention_and_mlp(flux, fuse):
    b, a = matrices(7 * 128, 128)
    mlp = "single_transformer_blocks.3.proj_mlp"
    before = weight(flux, mlp)
    assert fuse(tensors("lora_unet_single_blocks_3_linear1", b, a, KOHYA)) == 4
    assert torch.allclose(weight(flux, mlp), before + (b @ a)[3 * 128 :], atol=1e-6)


@pytest.mark.parametrize(
    "prefix", ["text_encoder.", "text_encoder.text_model.", "lora_te1_text_model_"]
)
def test_clip_can_be_changed_too(flux, fuse, prefix):
    b, a = matrices(64, 64)
    name = "encoder.layers.0.self_attn.q_proj"
    linear = flux.clip.get_submodule(name)
    before = linear.weight.detach().clone()
    fuse(tensors(f"{prefix}{name}", b, a))
    assert torch.allclose(linear.weight, before + b @ a, atol=1e-6)


T5_QUERY = "encoder.block.0.layer.0.SelfAttention.q"


@pytest.mark.parametrize(
    "module",
    [
        f"text_encoder_2.{T5_QUERY}",
        f"text_encoders.t5xxl.transformer.{T5_QUERY}",
        f"lora_te3_{T5_QUERY.replace('.', '_')}",
        f"lora_te2_{T5_QUERY.replace('.', '_')}",
    ],
)
def test_t5_can_be_changed_too(flux, fuse, module):
    b, a = matrices(64, 64)
    linear = flux.text.get_submodule(T5_QUERY)
    before = linear.weight.detach().clone()
    fuse(tensors(module, b, a))
    assert torch.allclose(linear.weight, before + b @ a, atol=1e-6)


def test_what_a_file_holds_of_transformer_and_text_encoders_acts_together(fuse):
    names = {
        "lora_unet_double_blocks_0_img_mlp_0": (512, 128),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (256, 64),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_k": (64, 64),
    }
    content = {}
    for name, sizes in names.items():
        content |= tensors(name, *matrices(*sizes), KOHYA)
    assert fuse(content) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e4m3fn])
def test_matrices_of_every_float_type_are_multiplied_in_fp32(flux, fuse, dtype):
    b, a = (matrix.to(dtype) for matrix in matrices(128, 128))
    before = weight(flux, QUERY)
    fuse(tensors(f"transformer.{QUERY}", b, a))
    assert torch.allclose(weight(flux, QUERY), before + b.float() @ a.float(), atol=1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused_before_a_weight_is_touched(flux, fuse, number):
    before = weight(flux, QUERY)
    b, a = matrices(128, 128)
    broken = a.clone()
    broken[0, 0] = number
    other = QUERY.replace("to_q", "to_v")
    content = tensors(QUERY, b, a) | tensors(other, b.clone(), broken)
    with pytest.raises(ModelError, match=r"to_v\.lora_A.* are NaN or infinite"):
        fuse(content)
    assert torch.equal(weight(flux, QUERY), before)


@pytest.mark.parametrize(
    ("stray", "shape", "complaint"),
    [
        (
            "transformer.transformer_blocks.9.attn.to_q.lora_A.weight",
            (RANK, 128),
            "names no linear of this model",
        ),
        (f"transformer.{QUERY}.dora_scale", (128, 1), "would stay unapplied"),
        (f"transformer.{QUERY}.lora_B.bias", (128,), "would stay unapplied"),
        (
            "text_encoders.t5xxl.transformer.block.lora_A.weight",
            (RANK, 64),
            "names no linear of this model",
        ),
        (
            "transformer.transformer_blocks.0.attn.to_k.lora_A.weight",
            (RANK, 128),
            "only one of its two matrices",
        ),
    ],
)
def test_nothing_is_left_unapplied_in_silence(flux, fuse, stray, shape, complaint):
    before = weight(flux, QUERY)
    good = tensors(f"transformer.{QUERY}", *matrices(128, 128))
    with pytest.raises(ModelError, match=complaint):
        fuse(good | {stray: torch.ones(shape)})
    assert torch.equal(weight(flux, QUERY), before)


@pytest.mark.parametrize("sizes", [(64, 128), (128, 64), (256, 128)])
def test_a_lora_of_another_size_is_refused(fuse, sizes):
    with pytest.raises(ModelError, match="to_q is"):
        fuse(tensors(f"transformer.{QUERY}", *matrices(*sizes)))


def test_a_job_with_a_lora_paints_other_pictures_and_scale_zero_the_same(dev, tmp_path):
    _, plain = dev
    path = tmp_path / "lora.safetensors"
    save_file(tensors(f"transformer.{QUERY}", *matrices(128, 128)), path)
    expected = plain.denoise([make_picture()]).latents
    for scale, changed in ((0.0, False), (1.0, True)):
        job = make_job("tiny", lora=[{"path": str(path), "scale": scale}])
        latents = build_engine(job, resolve(job.model)).denoise([make_picture()]).latents
        assert torch.equal(latents, expected) != changed
