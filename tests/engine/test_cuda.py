"""The same code on a GPU. Skipped where there is none."""

import pytest
import torch

from batchgen.engine.build import build_engine
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.support.stock import TEXT_TOKENS, make_picture, psnr

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def open_on_gpu(precision):
    settings = {
        "model": {"max_sequence_length": TEXT_TOKENS},
        "engine": {"device": "cuda"},
        "compile": {"mode": "none"},
    }
    job = parse_job(settings | {"precision": {"linear": precision}}, "a test")
    return build_engine(job, resolve(job.model))


def test_a_gpu_in_fp32_paints_what_the_cpu_paints(dev):
    group = [make_picture(key) for key in range(4)]
    on_gpu = open_on_gpu("fp32").denoise(group).latents.cpu()
    assert psnr(dev[1].denoise(group).latents, on_gpu) >= 60


def test_bf16_differs_by_rounding_and_is_timed_on_the_device(dev):
    engine, group = open_on_gpu("auto"), [make_picture(key) for key in range(4)]
    denoised = engine.denoise(group)
    pixels, decode_s = engine.decode(denoised)
    assert " bf16 " in engine.identity
    assert psnr(dev[1].decode(dev[1].denoise(group))[0], pixels) >= 25
    assert min(denoised.text_s, denoised.denoise_s, decode_s, denoised.peak_bytes) > 0
