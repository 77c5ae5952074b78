"""Stable Diffusion 3 and 3.5 are stock diffusers with every technique off.

`test_every_family.py` has what they share with all families, one picture at a time. Here are
batches, pictures at the edge of the positions, older models, and rounding of time.

Tolerance: fp32 latents within 1e-5, as for FLUX.1 (`test_parity.py`); measured 3e-6. Ours puts text
before the image in joint attention, which changes the order of a sum, and rounding with it.
"""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from safetensors.torch import save_file

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.lora import fuse_lora
from batchgen.errors import JobError
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, Precision
from tests.support.rehearsal import ask, settings, write_prompts
from tests.support.sd3_folder import MOST_PX, save_sd3
from tests.support.stock import TEXT_TOKENS, make_job, make_picture, psnr, sd3_call

TOLERANCE = 1e-5


def open_stock(folder, dtype=torch.float32):
    stock = StableDiffusion3Pipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    stock.set_progress_bar_config(disable=True)
    return stock


def open_engine(folder, **sections):
    job = make_job(folder).model_copy(update=sections)
    return build_engine(job, resolve(job.model))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_sd3(tmp_path_factory.mktemp("sd35") / "model")


@pytest.fixture(scope="module")
def medium(folder):
    """Configured like Stable Diffusion 3.5 medium: stock pipeline and engine."""
    return open_stock(folder), open_engine(folder)


def difference(stock, engine, group):
    theirs, ours = engine.family.pack(sd3_call(stock, group)), engine.denoise(group).latents
    assert theirs.shape == ours.shape
    assert theirs.abs().mean() > 0.1
    return (theirs - ours).abs().max().item()


@pytest.mark.parametrize("guidance", [0.0, 4.5])
def test_a_batch_of_the_highest_pictures_equals_stock_on_the_same_batch(medium, guidance):
    shared = {"width": 112, "height": MOST_PX, "guidance": guidance, "steps": 4}
    assert difference(*medium, [make_picture(key, **shared) for key in range(2)]) <= TOLERANCE


def test_latents_of_one_step_equal_stock(medium):
    assert difference(*medium, [make_picture(1, steps=1, guidance=4.5)]) <= TOLERANCE


@pytest.mark.parametrize("guidance", [1.0, 4.5])
def test_a_negative_prompt_counts_where_there_is_guidance_as_in_stock(medium, guidance):
    plain = [make_picture(key, guidance=guidance, steps=4) for key in range(2)]
    group = [replace(picture, negative_prompt="a blue circle") for picture in plain]
    assert difference(*medium, group) <= TOLERANCE
    _, engine = medium
    one, other = engine.denoise(plain).latents, engine.denoise(group).latents
    assert torch.equal(one, other) == (guidance == 1.0)


def test_a_model_without_the_additions_of_3_5_and_with_dynamic_shift_equals_stock(tmp_path):
    folder = save_sd3(tmp_path, dual_attention_layers=(), qk_norm=None)
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True).save_pretrained(folder / "scheduler")
    group = [make_picture(key, guidance=4.5, steps=4, width=192) for key in range(2)]
    assert difference(open_stock(folder), open_engine(folder), group) <= TOLERANCE


def test_bf16_differs_from_stock_by_rounding_alone(folder):
    """Time is embedded unrounded, though everything after it is bf16.

    Rounded, it would be off by up to two of a thousand steps.
    """
    stock = open_stock(folder, torch.bfloat16)
    engine = open_engine(folder, precision=Precision(linear="bf16"))
    family, group, theirs = engine.family, [make_picture(key, guidance=1.0) for key in range(2)], []
    stock.transformer.time_text_embed.register_forward_hook(
        lambda _module, _inputs, temb: theirs.append(temb)
    )
    stock_latents = family.pack(sd3_call(stock, group)).float()
    # The measured value is 70 dB.
    assert psnr(stock_latents, engine.denoise(group).latents.float()) >= 50
    schedule = family.schedule(8, 128, 128)
    text = family.encode([picture.prompt for picture in group])
    ours = family.conditions(text, schedule.timesteps, torch.ones(2), (128, 128)).temb
    # Measured: 0. With time rounded: 0.15.
    assert (torch.stack(theirs) - ours).abs().max() <= 0.01


GROUP = [
    make_picture(0, guidance=1.0),
    make_picture(1, guidance=4.5),
    make_picture(2, guidance=7.0, negative_prompt="a blue circle"),
    make_picture(3, guidance=2.0),
]


@pytest.mark.slow
def test_a_threshold_of_zero_is_no_cache_bit_for_bit_and_a_higher_one_skips(folder, medium):
    plain = medium[1].denoise(GROUP).latents
    cached = open_engine(folder, cache=Cache(policy="first_block", threshold=0.0)).denoise(GROUP)
    assert torch.equal(cached.latents, plain)
    skipping = open_engine(folder, cache=Cache(policy="first_block", threshold=0.47)).denoise(GROUP)
    assert all("1" in trace.skipped for trace in skipping.traces)
    assert len({trace.skipped for trace in skipping.traces}) > 1
    # The measured value is 60 dB.
    assert 40 <= psnr(plain, skipping.latents) <= 80


def test_teacache_is_refused_for_want_of_coefficients(folder):
    with pytest.raises(JobError, match="coefficients are published for flux, not for sd3"):
        open_engine(folder, cache=Cache(policy="teacache"))


def test_planning_refuses_a_true_cfg_with_its_row(folder, tmp_path):
    prompts = ["a red circle", "two blue squares"]
    manifest = write_prompts(tmp_path / "prompts.parquet", prompts, true_cfg=[1.0, 4.0])
    job = settings(
        model__path=folder,
        model__max_sequence_length=TEXT_TOKENS,
        sampling__width=128,
        sampling__height=128,
    )
    refused = ask("plan", manifest, *job)
    assert refused.code == 2
    assert "row 1 of" in refused.err
    assert "column true_cfg: 4.0; this family has one guidance scale" in refused.err


def test_a_true_cfg_that_would_change_nothing_is_refused(medium):
    with pytest.raises(JobError, match=r"true_cfg = 4: .* guidance is its only scale"):
        medium[1].denoise([make_picture(true_cfg=4.0)])


def test_kohyas_name_of_the_second_clip_is_known(folder, tmp_path):
    job, name = make_job(folder), "text_model.encoder.layers.2.self_attn.q_proj"
    family = load_family(resolve(job.model), choose_device(job.engine), TEXT_TOKENS)
    target = family.clip_2.get_submodule(name)
    up, down = torch.randn(target.out_features, 4), torch.randn(4, target.in_features)
    before, path = target.weight.detach().clone(), tmp_path / "lora.safetensors"
    module = f"lora_te2_{name.replace('.', '_')}"
    save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, path)
    assert fuse_lora(family.lora_targets(), path, 0.5) == 1
    assert torch.allclose(target.weight, before + 0.5 * up @ down, atol=1e-6)


def test_planning_accepts_the_folder_and_refuses_pictures_larger_than_its_positions(
    folder, tmp_path
):
    manifest = write_prompts(tmp_path / "prompts.parquet", ["a red circle", "two blue squares"])
    job = {"model__path": folder, "model__max_sequence_length": TEXT_TOKENS, "sampling__width": 128}
    planned = ask("plan", manifest, *settings(**job, sampling__height=MOST_PX))
    assert planned.code == 0, planned.err
    refused = ask("plan", manifest, *settings(**job, sampling__height=MOST_PX + 16))
    assert refused.code == 2
    told = f"sampling.height: {MOST_PX + 16}; expected px, a multiple of 16 from 16 to {MOST_PX}"
    assert told in refused.err
