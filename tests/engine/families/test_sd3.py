"""Stable Diffusion 3 and 3.5 are stock diffusers with every technique off.

What the engine promises for FLUX.1, it keeps for them too.
Tolerance: fp32 latents within 1e-5, as for FLUX.1 (`test_parity.py`); measured 3e-6. Ours puts text
before the image in joint attention, which changes the order of a sum, and rounding with it.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.families.lora import fuse_lora
from batchgen.engine.parallel.mesh import Mesh
from batchgen.errors import JobError
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import Cache, Precision
from tests.support.rehearsal import ask, settings, write_prompts
from tests.support.replica_processes import RankProcesses
from tests.support.sd3_folder import MOST_PX, denoise_over_ranks, save_sd3
from tests.support.stock import TEXT_TOKENS, make_job, make_picture, psnr

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


def stock_call(stock, group, output_type="latent"):
    """What a user of the pipeline writes for these pictures. Guidance is the first picture's."""
    first = group[0]
    return stock(
        prompt=[picture.prompt for picture in group],
        negative_prompt=[picture.negative_prompt for picture in group],
        guidance_scale=first.guidance,
        width=first.width,
        height=first.height,
        num_inference_steps=first.steps,
        generator=[torch.Generator().manual_seed(picture.seed) for picture in group],
        max_sequence_length=TEXT_TOKENS,
        output_type=output_type,
    ).images


def difference(stock, engine, group):
    theirs, ours = engine.family.pack(stock_call(stock, group)), engine.denoise(group).latents
    assert theirs.shape == ours.shape
    assert theirs.abs().mean() > 0.1
    return (theirs - ours).abs().max().item()


@pytest.mark.parametrize(("width", "height"), [(128, 128), (192, 112), (112, MOST_PX)])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 4.5])
def test_latents_equal_stock_at_every_size_and_guidance(medium, width, height, guidance):
    shared = {"width": width, "height": height, "guidance": guidance, "steps": 4}
    assert difference(*medium, [make_picture(key, **shared) for key in range(2)]) <= TOLERANCE


@pytest.mark.parametrize("steps", [1, 12])
def test_latents_equal_stock_at_every_number_of_steps(medium, steps):
    assert difference(*medium, [make_picture(1, steps=steps, guidance=4.5)]) <= TOLERANCE


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
    stock_latents = family.pack(stock_call(stock, group)).float()
    # The measured value is 70 dB.
    assert psnr(stock_latents, engine.denoise(group).latents.float()) >= 50
    schedule = family.schedule(8, 128, 128)
    text = family.encode([picture.prompt for picture in group])
    ours = family.conditions(text, schedule.timesteps, torch.ones(2), (128, 128)).temb
    # Measured: 0. With time rounded: 0.15.
    assert (torch.stack(theirs) - ours).abs().max() <= 0.01


def test_pixels_equal_stock_pictures(medium):
    stock, engine = medium
    group = [make_picture(key, width=192, guidance=4.5, steps=4) for key in range(2)]
    theirs = np.stack([np.asarray(image) for image in stock_call(stock, group, "pil")])
    ours, _ = engine.decode(engine.denoise(group))
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= 1


GROUP = [
    make_picture(0, guidance=1.0),
    make_picture(1, guidance=4.5),
    make_picture(2, guidance=7.0, negative_prompt="a blue circle"),
    make_picture(3, guidance=2.0),
]


@pytest.mark.parametrize(
    "cache",
    [Cache(), Cache(policy="first_block", threshold=0.47, taylor_order=1)],
    ids=["plain", "cached"],
)
def test_a_picture_is_the_same_alone_and_in_a_group_of_other_guidance(folder, cache):
    engine = open_engine(folder, cache=cache)
    together = engine.denoise(GROUP)
    for place, picture in enumerate(GROUP):
        alone = engine.denoise([picture])
        assert psnr(alone.latents[0], together.latents[place]) >= 90
        assert not alone.traces or alone.traces[0].skipped == together.traces[place].skipped


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


@pytest.mark.slow
def test_two_ranks_paint_what_one_does(folder):
    """That holds for the second attention of dual blocks too, among image tokens alone.

    The ranks hold unequal shares of these.
    """
    cache = Cache(policy="first_block", threshold=0.47)
    group = [
        make_picture(key, guidance=guidance, width=112, height=112)
        for key, guidance in enumerate([1.0, 4.5])
    ]
    alone = open_engine(folder, cache=cache).denoise(group)
    with RankProcesses(2) as ranks:
        for layout in (Mesh(ulysses=2), Mesh(ring=2)):
            ranks.connect(layout)
            for denoised in ranks.run(denoise_over_ranks, folder, group, cache):
                assert (denoised.latents - alone.latents).abs().max() <= 1e-4
                for ours, theirs in zip(denoised.traces, alone.traces, strict=True):
                    assert ours.skipped == theirs.skipped
            ranks.close()


DUAL = "transformer_blocks.1.attn2.to_q"
MODULATION = "transformer_blocks.3.norm1_context.linear"
MLP = "text_model.encoder.layers.0.mlp.fc1"
QUERY = "text_model.encoder.layers.2.self_attn.q_proj"


@pytest.mark.parametrize(
    ("theirs", "component", "linear"),
    [
        (f"transformer.{DUAL}", "transformer", DUAL),
        (f"transformer.{MODULATION}", "transformer", MODULATION),
        (f"text_encoder.{MLP}", "clip", MLP),
        (f"text_encoder_2.{QUERY}", "clip_2", QUERY),
        (f"lora_te2_{QUERY.replace('.', '_')}", "clip_2", QUERY),
    ],
)
def test_a_lora_changes_the_linear_it_names(folder, tmp_path, theirs, component, linear):
    job = make_job(folder)
    family = load_family(resolve(job.model), choose_device(job.engine), TEXT_TOKENS)
    target = getattr(family, component).get_submodule(linear)
    up, down = torch.randn(target.out_features, 4), torch.randn(4, target.in_features)
    before, path = target.weight.detach().clone(), tmp_path / "lora.safetensors"
    save_file({f"{theirs}.lora_A.weight": down, f"{theirs}.lora_B.weight": up}, path)
    assert fuse_lora(family.lora_targets(), path, 0.5) == 1
    assert torch.allclose(target.weight, before + 0.5 * up @ down, atol=1e-6)


def test_flops_are_those_of_the_blocks(folder, medium):
    blocks = medium[0].transformer.transformer_blocks
    image, text = torch.randn(1, 64, 128), torch.randn(1, 77 + TEXT_TOKENS, 128)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode(), sdpa_kernel(SDPBackend.MATH):
        for block in blocks:
            text, image = block(image, text, torch.randn(1, 128))
    norms = [norm for block in blocks for norm in (block.norm1, block.norm1_context)]
    modulations = sum(2 * norm.linear.weight.numel() for norm in norms)
    expected = counter.get_total_flops() - modulations
    flops = resolve(make_job(folder).model).flops(128, 128, 3, TEXT_TOKENS, cfg=False)
    # Every picture is contrasted, so it has two rows.
    assert flops == pytest.approx(2 * 3 * expected, rel=1e-6)


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
