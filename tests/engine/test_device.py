"""A device has a name that tells its rounding, and its errors become the engine's."""

import re

import pytest
import torch

from batchgen.engine.device import choose_device
from batchgen.errors import DeviceFault, JobError, OutOfMemory
from batchgen.settings.job import EngineSettings
from tests.support.stock import make_picture


@pytest.fixture
def cpu():
    return choose_device(EngineSettings(device="cpu"))


def test_the_identity_names_everything_that_changes_rounding(cpu):
    assert re.fullmatch(r"cpu \S+ fp32 threads=1 torch=\S+", cpu.identity)
    assert choose_device(EngineSettings(device="cpu"), "bf16").identity.split()[2] == "bf16"


def test_the_engine_carries_the_identity_of_its_device_and_its_attention_kernel(dev, cpu):
    assert dev[1].identity == f"{cpu.identity} attention=sdpa"


def test_the_jobs_threads_are_set():
    try:
        choose_device(EngineSettings(device="cpu", threads=2))
        assert torch.get_num_threads() == 2
    finally:
        choose_device(EngineSettings(device="cpu"))
    assert torch.get_num_threads() == 1


def test_a_device_that_is_not_there_is_refused_never_replaced(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(JobError, match=r"sees no CUDA device.*engine\.device=cpu"):
        choose_device(EngineSettings(device="cuda"))


def test_a_full_host_is_out_of_memory_and_keeps_nothing_alive(cpu):
    with pytest.raises(OutOfMemory, match="can't allocate memory") as caught:
        cpu.attempt(lambda: torch.empty(2**50))
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (torch.AcceleratorError("CUDA error: an illegal memory access"), DeviceFault),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `x`"), DeviceFault),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceFault),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `x`"), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
    ],
)
def test_device_errors_are_told_apart(cpu, error, becomes):
    def fail():
        raise error

    with pytest.raises(becomes, match=re.escape(str(error))):
        cpu.attempt(fail)


def test_other_errors_pass_as_they_are(cpu):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        cpu.attempt(lambda: torch.ones(2, 3) @ torch.ones(2, 3))


def test_the_engine_reports_out_of_memory_of_a_group(dev, monkeypatch):
    _, engine = dev

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine.family, "head", full)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        engine.denoise([make_picture()])
