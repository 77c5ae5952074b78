"""What a device, a job or a model lacks is refused in one wording, at plan and at build."""

import pytest
import torch

from batchgen.engine.attention.kernels import choose_attention
from batchgen.engine.rules import (
    as_read,
    check_attention,
    check_offload,
    check_offload_compiles,
    check_true_cfg,
    compile_mode,
)
from batchgen.errors import JobError
from batchgen.model import Guidance
from tests.support.specimens import picture

CPU = {"cuda": False, "capability": None, "fp32": True, "where": "the CPU"}
H100 = {"cuda": True, "capability": (9, 0), "fp32": False, "where": "H100"}
UNKNOWN = {"cuda": None, "capability": None, "fp32": True, "where": ""}


@pytest.mark.parametrize("device", [CPU, H100, UNKNOWN])
@pytest.mark.parametrize("kernel", ["auto", "math"])
def test_auto_and_math_run_everywhere(kernel, device):
    check_attention(kernel, **device)


@pytest.mark.parametrize("kernel", ["cudnn", "flash", "fa3"])
def test_a_hopper_card_has_every_kernel_and_a_device_that_is_not_known_may_have(kernel):
    check_attention(kernel, **H100)
    check_attention(kernel, **UNKNOWN)


@pytest.mark.parametrize(
    ("kernel", "device", "told"),
    [
        ("cudnn", CPU, "on the CPU: it needs a CUDA device"),
        ("fa3", CPU, "on the CPU: it needs a CUDA device"),
        ("flash", H100 | {"capability": (7, 5)}, r"compute capability 8\.0 .*attention=math"),
        ("fa3", H100 | {"capability": (8, 0)}, "it needs a Hopper card"),
        ("fa3", H100 | {"capability": (10, 0)}, "it needs a Hopper card"),
        ("cudnn", H100 | {"fp32": True}, "fast kernels take 16 bits"),
    ],
)
def test_a_kernel_that_the_device_lacks_is_refused(kernel, device, told):
    with pytest.raises(JobError, match=told):
        check_attention(kernel, **device)


@pytest.mark.parametrize("kernel", ["cudnn", "fa3"])
def test_the_engine_refuses_a_kernel_in_the_words_of_the_plan(kernel):
    with pytest.raises(JobError) as planned:
        check_attention(kernel, **CPU)
    with pytest.raises(JobError) as built:
        choose_attention(kernel, torch.device("cpu"), torch.float32)
    assert str(built.value) == str(planned.value)


def test_offloading_needs_a_device_to_leave():
    check_offload("none", cuda=False, where="the CPU")
    check_offload("model", cuda=None, where="")
    with pytest.raises(JobError, match='"text" on the CPU: there is no device to leave'):
        check_offload("text", cuda=False, where="the CPU")


def test_layers_that_move_are_not_compiled():
    for offload, mode in (("layers", "auto"), ("layers", "none"), ("model", "default")):
        check_offload_compiles(offload, mode)
    with pytest.raises(JobError, match=r"cannot be compiled\. --set compile\.mode=none"):
        check_offload_compiles("layers", "default")


def test_true_cfg_is_refused_where_guidance_is_the_only_scale():
    check_true_cfg(4.0, contrasts=False)
    check_true_cfg(1.0, contrasts=True)
    with pytest.raises(JobError, match=r"true_cfg = 4: .* leave true_cfg out of the manifest"):
        check_true_cfg(4.0, contrasts=True)


@pytest.mark.parametrize(
    ("mode", "offload", "cuda", "chosen"),
    [
        ("auto", "none", True, "default"),
        ("auto", "model", True, "default"),
        ("auto", "layers", True, "none"),
        ("auto", "none", False, "none"),
        ("none", "none", True, "none"),
        ("default", "none", False, "default"),
    ],
)
def test_blocks_are_compiled_on_cuda_unless_they_move(mode, offload, cuda, chosen):
    assert compile_mode(mode, offload, cuda=cuda) == chosen


@pytest.mark.parametrize(
    ("guidance", "given", "read"),
    [
        (Guidance(True, False), {"guidance": 3.5, "true_cfg": 4.0, "negative_prompt": "grey"}, {}),
        (Guidance(True, False), {"true_cfg": 4.0}, {"true_cfg": 1.0}),
        (Guidance(True, False), {"negative_prompt": "grey"}, {"negative_prompt": ""}),
        (Guidance(False, False), {"guidance": 3.5}, {"guidance": 0.0}),
        (Guidance(False, True), {"guidance": 0.5}, {"guidance": 1.0}),
        (Guidance(False, True), {"guidance": 0.0}, {}),
        (None, {"guidance": 3.5, "true_cfg": 0.5, "negative_prompt": "grey"}, {}),
    ],
)
def test_what_changed_nothing_is_recorded_as_none(guidance, given, read):
    assert as_read(picture(**given), guidance) == picture(**given | read)


def test_what_is_recorded_makes_the_same_picture():
    for model in (Guidance(True, False), Guidance(False, False), Guidance(False, True)):
        once = as_read(picture(guidance=0.5, true_cfg=0.5, negative_prompt="grey"), model)
        assert as_read(once, model) == once
