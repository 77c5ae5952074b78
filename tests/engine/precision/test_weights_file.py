"""A file holds a quantized transformer as plain tensors; any other file is refused with reasons."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from batchgen.engine.build import build_engine
from batchgen.engine.precision.weights_file import write_quantized
from batchgen.errors import ModelError
from batchgen.model.checkpoint import resolve
from tests.engine.precision.eight_bits import build, make_job, weights_of


def test_a_file_holds_plain_tensors_of_8_bits_and_their_scales_and_says_of_what(
    weights_file: Path,
) -> None:
    with safe_open(weights_file, "pt") as tensors:
        name = "transformer.transformer_blocks.0.attn.to_out.0.weight"
        qdata, scale = (tensors.get_tensor(f"{name}.{part}") for part in ("qdata", "scale"))
        facts = json.loads(tensors.metadata()["batchgen"])
        names = set(tensors.keys())
    assert (qdata.dtype, qdata.shape) == (torch.float8_e4m3fn, (128, 128))
    assert (scale.dtype, scale.shape) == (torch.float32, (128, 1))
    assert {"transformer.x_embedder.weight", "transformer.proj_out.bias"} <= names
    assert "modulator.linears.0.weight" in names
    assert not any(name.endswith((".to_q.weight", ".norm1.linear.weight")) for name in names)
    assert facts == weights_of(make_job("")).facts
    assert weights_file.stat().st_mode & 0o777 == 0o600


def test_tensors_of_every_type_and_shape_are_written_as_they_are(tmp_path: Path) -> None:
    model = torch.nn.Module()
    for number, dtype in enumerate(
        (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.int64)
    ):
        whole = torch.arange(-12, 12).reshape(4, 6).to(dtype)
        for name, tensor in (("scalar", whole[0, 0]), ("view", whole[:, 2:]), ("empty", whole[:0])):
            model.register_buffer(f"{name}{number}", tensor)
    write_quantized(tmp_path / "file", model, {})
    loaded, expected = load_file(tmp_path / "file"), model.state_dict()
    assert loaded.keys() == expected.keys()
    content = (tmp_path / "file").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    for name, tensor in loaded.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor.float(), expected[name].float())
        assert header[name]["data_offsets"][0] % tensor.element_size() == 0


def refusal(weights_file: Path) -> str:
    remedy = r"remove it, and the next worker makes it anew, or --set run\.quantized_weights="
    with pytest.raises(ModelError, match=remedy) as error:
        weights_of(make_job(weights_file.parent)).stored()
    return str(error.value)


def test_a_file_cut_short_is_refused_before_a_model_is_loaded(weights_file: Path) -> None:
    weights_file.write_bytes(weights_file.read_bytes()[:-1])
    with pytest.raises(
        ModelError,
        match=rf"{weights_file} is damaged .*has [\d,]+ bytes and is not a whole safetensors",
    ):
        build_engine(
            make_job(weights_file.parent),
            resolve(make_job("").model),
            load=lambda *_: pytest.fail("a model is loaded"),
        )
    weights_file.write_bytes(b"")
    assert "is damaged" in refusal(weights_file)


def test_a_file_of_somebody_else_is_refused(weights_file: Path) -> None:
    weights_file.chmod(0o620)
    assert "can be written by others (mode 620)" in refusal(weights_file)
    weights_file.chmod(0o600)
    elsewhere = weights_file.rename(weights_file.with_name("elsewhere"))
    weights_file.symlink_to(elsewhere)
    assert "is no plain file" in refusal(weights_file)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(weights_file: Path) -> None:
    os.chown(weights_file, 12345, -1)
    assert "belongs to user 12345, not to you" in refusal(weights_file)


def test_a_file_under_the_name_of_another_is_refused(weights_file: Path) -> None:
    other = weights_of(make_job(weights_file.parent, "int8"))
    weights_file.rename(other.path)
    told = r"was made with format = \{.*'fp8'.*, and \{.*'int8'.* is wanted\. It is for"
    with pytest.raises(ModelError, match=told):
        other.stored()


def test_a_file_that_is_not_ours_is_refused(weights_file: Path) -> None:
    save_file(load_file(weights_file), weights_file)
    weights_file.chmod(0o600)
    assert "is not a file of weights that batchgen quantized" in refusal(weights_file)


def test_a_file_with_other_tensors_is_refused(weights_file: Path) -> None:
    with safe_open(weights_file, "pt") as tensors:
        metadata = tensors.metadata()
    name = "transformer.proj_out.bias"
    save_file(load_file(weights_file) | {name: torch.zeros(3)}, weights_file, metadata)
    weights_file.chmod(0o600)
    told = rf"has 1 tensor of another model: {name} is \('F32', \[3\]\), and \('F32', \[64\]\)"
    with pytest.raises(ModelError, match=told):
        build(make_job(weights_file.parent))
