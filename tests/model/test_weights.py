"""Digests stay what they were, and a broken weight file is told with what it is."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from batchgen.errors import ModelError
from batchgen.model import TINY, weights
from batchgen.model.weights import digest, read_header

SAMPLED = TINY / "transformer" / "diffusion_pytorch_model.safetensors"
WHOLE = TINY / "vae" / "diffusion_pytorch_model.safetensors"


def test_digests_are_those_in_the_fingerprints_of_older_runs() -> None:
    assert digest(SAMPLED) == (
        "sampled:bf93b47eb22a7f7fb351fdf854b5101ef8fbb6976ba0b8aa4570ea0983dedb41"
    )
    assert digest(WHOLE) == (
        "sha256:908fdaecb4ca2eaafe45f83fbf741a63c083a8364ce75ed8f41042e12f559ff8"
    )


def test_a_large_file_is_sampled_and_retrained_weights_show(tmp_path: Path) -> None:
    tensor = torch.randn(1200, 1200)
    assert tensor.nbytes > weights.WHOLE_BYTES
    for name, values in (("one", tensor), ("same", tensor), ("other", tensor * 1.001)):
        save_file({"weight": values}, tmp_path / f"{name}.safetensors")
    one, same, other = (
        digest(tmp_path / f"{name}.safetensors") for name in ("one", "same", "other")
    )
    assert one == same != other
    assert one.startswith("sampled:")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.int8])
def test_a_header_has_types_shapes_and_metadata(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"a": torch.zeros(2, 3).to(dtype), "scalar": torch.zeros(()).to(dtype)}
    save_file(tensors, tmp_path / "bare.safetensors")
    save_file(tensors, tmp_path / "told.safetensors", metadata={"format": "pt"})
    bare, told = (read_header(tmp_path / f"{name}.safetensors") for name in ("bare", "told"))
    assert told == bare | {"__metadata__": {"format": "pt"}}
    assert (bare["a"]["shape"], bare["scalar"]["shape"]) == ([2, 3], [])
    assert bare["a"]["dtype"] == bare["scalar"]["dtype"]


GOOD = WHOLE.read_bytes()
BROKEN = {
    "an empty file": (b"", "not a safetensors file but an empty one; fetch it again"),
    "a Git LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "not a safetensors file but a Git LFS pointer; fetch what it points to: git lfs pull",
    ),
    "a web page": (b"\n<!DOCTYPE html><html>Log in</html>", "a web page; fetch the file again"),
    "a pickle": (b"\x80\x04pickle" * 9, "a pickled PyTorch file, which can run code; convert it"),
    "a zipped pickle": (b"PK\x03\x04" * 9, "a pickled PyTorch file, which can run code; convert"),
    "cut in the tensors": (
        GOOD[:-1],
        f"has {len(GOOD) - 1:,} bytes and is not a whole safetensors",
    ),
    "cut in the header": (GOOD[:99], "has 99 bytes and is not a whole safetensors file"),
    "cut in the length": (GOOD[:7], "has 7 bytes and is not a whole safetensors file"),
    "too long": (GOOD + b"x", f"has {len(GOOD) + 1:,} bytes and is not a whole safetensors file"),
    "zeros": (bytes(99), "The copy or download is broken: fetch the file again."),
    "a header that begins like a pickle, cut": (
        (128).to_bytes(8, "little") + b'{"a"',
        "has 12 bytes and is not a whole safetensors file",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_told_with_what_it_seems_to_be(what: str, tmp_path: Path) -> None:
    content, told = BROKEN[what]
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"{path}: .*{re.escape(told)}|{path}: {re.escape(told)}"):
        read_header(path)


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="No such file or directory"):
        read_header(tmp_path / "absent.safetensors")
