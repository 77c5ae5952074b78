"""A device has a name that tells its rounding, and its errors become the engine's."""

import contextlib
import os
import re
from functools import partial

import pytest
import torch

from batchgen import engine
from batchgen.engine import follow_engine, open_engine
from batchgen.engine.device import Device, choose_device
from batchgen.errors import DeviceFault, JobError, OutOfMemory
from batchgen.settings.job import EngineSettings, parse_job
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


def test_a_worker_that_was_given_a_card_never_computes_beside_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(JobError, match=r'"auto": PyTorch .* sees no CUDA device'):
        choose_device(EngineSettings())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert choose_device(EngineSettings()).kind.type == "cpu"


def test_fp32_on_cuda_has_all_its_bits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a card of a test")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = True  # PyTorch's default
    try:
        device = choose_device(EngineSettings(device="cuda"), "fp32")
        assert device.identity == f"cuda a card of a test fp32 torch={torch.__version__}"
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, "backend:native"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
    ],
)
def test_cuda_memory_grows_in_place_unless_the_user_set_up_the_allocator(monkeypatch, given, then):
    class Importing(Exception):
        """PyTorch would be imported now."""

    def stop():
        raise Importing

    monkeypatch.setattr(engine, "quiet_imports", stop)
    job = parse_job({}, "a test")
    for opened in (open_engine, partial(follow_engine, work=None, rendezvous=None)):
        monkeypatch.setattr(os, "environ", dict(given))
        with pytest.raises(Importing):
            opened(job, None)
        assert os.environ.get("PYTORCH_ALLOC_CONF") == then


def test_a_full_host_is_out_of_memory_and_keeps_nothing_alive(cpu):
    with pytest.raises(OutOfMemory, match="can't allocate memory") as caught:
        cpu.attempt(lambda: torch.empty(2**50))
    assert caught.value.__context__ is None


# As PyTorch, the driver and Triton word them; on a card none of them was provoked.
FULL = [
    torch.OutOfMemoryError("in other words"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total …"),
    torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("NCCL error: unhandled cuda error\nCuda failure 2 'out of memory'"),
    RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995'),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried …"),
]
FAULTS = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA driver error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: device-side assert triggered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(…)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]
NEITHER = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
    RuntimeError("Expected all tensors to be on the same device, but found cuda:0 and cpu!"),
]


class Card:
    """A CUDA card as far as an error needs one: it is asked whether it still answers."""

    def __init__(self, monkeypatch):
        self.sick, self.freed = False, 0
        monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", self.answer)
        monkeypatch.setattr(torch.cuda, "empty_cache", self.free)
        self.device = Device(torch.device("cuda", 0), torch.bfloat16, "cuda of a test")

    def answer(self, _):
        if self.sick:
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    def free(self):
        self.freed += 1

    def attempt(self, error):
        def fail():
            raise error

        self.device.attempt(fail)


@pytest.fixture
def card(monkeypatch):
    return Card(monkeypatch)


@pytest.mark.parametrize("error", FULL, ids=str)
def test_full_memory_is_told_from_a_fault_and_memory_is_freed(card, error):
    with pytest.raises(OutOfMemory, match=re.escape(str(error))) as caught:
        card.attempt(error)
    assert card.freed == 1
    assert caught.value.__context__ is None


@pytest.mark.parametrize("error", FAULTS, ids=str)
def test_a_fault_of_the_device_ends_the_process(card, error):
    with pytest.raises(DeviceFault, match=re.escape(str(error))):
        card.attempt(error)


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_an_error_of_the_program_passes_as_it_is(card, error):
    with pytest.raises(RuntimeError, match=re.escape(str(error))) as caught:
        card.attempt(error)
    assert caught.value is error


@pytest.mark.parametrize("error", [FULL[0], NEITHER[0]], ids=str)
def test_any_error_of_a_device_that_answers_no_more_is_a_fault(card, error):
    card.sick = True
    with pytest.raises(DeviceFault, match=re.escape(str(error))):
        card.attempt(error)


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
