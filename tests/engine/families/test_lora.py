"""LoRA files of every accepted spelling change the weights by scale · (alpha / rank) · B·A; everything else is refused."""

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


def matrices(out_features, in_features, rank=RANK, seed=0):
    """Random B [out, rank] and A [rank, in]."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out_features, rank, generator=generator), torch.randn(
        rank, in_features, generator=generator
    )


@pytest.fixture
def flux(model_folder):
    """A fresh model as loaded, before any technique: fusing changes it."""
    job = make_job(model_folder)
    return load_family(resolve(job.model), choose_device(job.engine), job.model.max_sequence_length)


def weight(flux, module):
    return flux.transformer.get_submodule(module).weight.detach().clone()


@pytest.mark.parametrize(
    ("down", "up", "alpha"),
    [
        (
            f"transformer.{QUERY}.lora_A.weight",
            f"transformer.{QUERY}.lora_B.weight",
            f"transformer.{QUERY}.alpha",
        ),
        (f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.weight", f"{QUERY}.alpha"),
        tuple(
            f"lora_transformer_{QUERY.replace('.', '_')}.{part}"
            for part in ("lora_down.weight", "lora_up.weight", "alpha")
        ),
    ],
)
def test_a_linear_gets_scale_times_alpha_over_rank_times_its_product(
    flux, tmp_path, down, up, alpha
):
    b, a = matrices(128, 128)
    save_file({down: a, up: b, alpha: torch.tensor(2.0)}, tmp_path / "lora.safetensors")
    before = weight(flux, QUERY)
    assert fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 0.5) == 1
    expected = before + 0.5 * (2.0 / RANK) * b @ a
    assert torch.allclose(weight(flux, QUERY), expected, atol=1e-6)


def test_without_alpha_the_product_is_added_as_it_is(flux, tmp_path):
    b, a = matrices(128, 128)
    save_file(
        {f"transformer.{QUERY}.lora_A.weight": a, f"transformer.{QUERY}.lora_B.weight": b},
        tmp_path / "lora.safetensors",
    )
    before = weight(flux, QUERY)
    fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0)
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
def test_alpha_is_read_from_the_adapter_metadata_of_diffusers(flux, tmp_path, settings, factor):
    b, a = matrices(128, 128)
    tensors = {f"transformer.{QUERY}.lora_A.weight": a, f"transformer.{QUERY}.lora_B.weight": b}
    metadata = json.dumps({f"transformer.{name}": value for name, value in settings.items()})
    save_file(tensors, tmp_path / "lora.safetensors", metadata={"lora_adapter_metadata": metadata})
    before = weight(flux, QUERY)
    fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0)
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
def test_stacked_linears_of_kohya_and_bfl_are_cut_into_their_rows(flux, tmp_path, theirs, ours):
    b, a = matrices(3 * 128, 128)
    save_file(
        {f"{theirs}.lora_down.weight": a, f"{theirs}.lora_up.weight": b},
        tmp_path / "lora.safetensors",
    )
    modules = [f"transformer_blocks.1.attn.{name}" for name in ours]
    before = [weight(flux, module) for module in modules]
    assert fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0) == 3
    for module, old, delta in zip(modules, before, (b @ a).split(128), strict=True):
        assert torch.allclose(weight(flux, module), old + delta, atol=1e-6)


def test_a_single_block_of_kohya_changes_attention_and_mlp(flux, tmp_path):
    b, a = matrices(7 * 128, 128)
    name = "lora_unet_single_blocks_3_linear1"
    save_file(
        {f"{name}.lora_down.weight": a, f"{name}.lora_up.weight": b}, tmp_path / "lora.safetensors"
    )
    before = weight(flux, "single_transformer_blocks.3.proj_mlp")
    assert fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0) == 4
    assert torch.allclose(
        weight(flux, "single_transformer_blocks.3.proj_mlp"), before + (b @ a)[3 * 128 :], atol=1e-6
    )


@pytest.mark.parametrize(
    "prefix", ["text_encoder.", "text_encoder.text_model.", "lora_te1_text_model_"]
)
def test_clip_can_be_changed_too(flux, tmp_path, prefix):
    b, a = matrices(64, 64)
    name = f"{prefix}encoder.layers.0.self_attn.q_proj"
    save_file(
        {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}, tmp_path / "lora.safetensors"
    )
    linear = flux.clip.get_submodule("encoder.layers.0.self_attn.q_proj")
    before = linear.weight.detach().clone()
    fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0)
    assert torch.allclose(linear.weight, before + b @ a, atol=1e-6)


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
def test_nothing_is_left_unapplied_in_silence(flux, tmp_path, stray, shape, complaint):
    b, a = matrices(128, 128)
    good = {f"transformer.{QUERY}.lora_A.weight": a, f"transformer.{QUERY}.lora_B.weight": b}
    save_file(good | {stray: torch.ones(shape)}, tmp_path / "lora.safetensors")
    before = weight(flux, QUERY)
    with pytest.raises(ModelError, match=complaint):
        fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0)
    assert torch.equal(weight(flux, QUERY), before)


@pytest.mark.parametrize("sizes", [(64, 128), (128, 64), (256, 128)])
def test_a_lora_of_another_size_is_refused(flux, tmp_path, sizes):
    b, a = matrices(*sizes)
    save_file(
        {f"transformer.{QUERY}.lora_A.weight": a, f"transformer.{QUERY}.lora_B.weight": b},
        tmp_path / "lora.safetensors",
    )
    with pytest.raises(ModelError, match="to_q is"):
        fuse_lora(flux.lora_targets(), tmp_path / "lora.safetensors", 1.0)


def test_a_job_with_a_lora_paints_other_pictures_and_scale_zero_the_same(dev, tmp_path):
    _, plain = dev
    b, a = matrices(128, 128)
    path = tmp_path / "lora.safetensors"
    save_file(
        {f"transformer.{QUERY}.lora_A.weight": a, f"transformer.{QUERY}.lora_B.weight": b}, path
    )
    expected = plain.denoise([make_picture()]).latents
    for scale, changed in ((0.0, False), (1.0, True)):
        job = make_job("tiny", lora=[{"path": str(path), "scale": scale}])
        latents = build_engine(job, resolve(job.model)).denoise([make_picture()]).latents
        assert torch.equal(latents, expected) != changed
