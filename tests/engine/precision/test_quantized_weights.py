"""The first worker quantizes and writes its weights; later workers load them and paint the same."""

import os
import resource
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.families import load_family
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.precision.quantize import is_quantized
from batchgen.engine.precision.quantized_weights import choose_weights
from batchgen.engine.torch_engine import TorchEngine
from batchgen.errors import JobError
from batchgen.model.checkpoint import resolve
from tests.engine.parallel.rank_tasks import paint
from tests.engine.precision.eight_bits import build, make_job, weights_of
from tests.support.replica_processes import RankProcesses
from tests.support.sd3_folder import save_sd3
from tests.support.stock import make_picture

GROUP = [make_picture(key, steps=2) for key in range(2)]


def state(engine: TorchEngine) -> dict[str, Tensor]:
    """Every tensor that a step reads."""
    family, tensors = engine.family, {}
    modules = {"transformer": family.transformer, "modulator": engine.modulator}
    for part, module in (modules | {"clip": family.clip}).items():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            parts = {"": tensor}
            if is_quantized(tensor):
                parts = {"qdata": tensor.qdata.view(torch.int8), "scale": tensor.scale}
            tensors |= {f"{part}.{name}.{kind}": plain for kind, plain in parts.items()}
    return tensors


def settings(engine: TorchEngine) -> list[Any]:
    """What weights hold besides their numbers."""
    weights = [*engine.family.transformer.parameters(), *engine.modulator.parameters()]
    ours = [
        (weight.dtype, weight.block_size, weight.act_quant_kwargs)
        for weight in weights
        if is_quantized(weight)
    ]
    return [*ours, *(weight.requires_grad for weight in weights)]


def assert_equal(one: TorchEngine, other: TorchEngine) -> None:
    left, right = state(one), state(other)
    assert left.keys() == right.keys()
    assert all(
        torch.equal(left[name], right[name]) and left[name].dtype == right[name].dtype
        for name in left
    )
    assert settings(one) == settings(other)
    assert one.identity == other.identity
    assert torch.equal(one.denoise(GROUP).latents, other.denoise(GROUP).latents)


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A LoRA for a linear of a block, for a modulation, and for the text encoder."""
    torch.manual_seed(0)
    names = {
        "transformer.transformer_blocks.0.attn.to_q": (128, 128),
        "transformer.single_transformer_blocks.1.norm.linear": (384, 128),
        "text_encoder.text_model.encoder.layers.0.mlp.fc1": (256, 64),
    }
    tensors = {}
    for name, (outputs, inputs) in names.items():
        tensors |= {
            f"{name}.lora_A.weight": torch.randn(4, inputs),
            f"{name}.lora_B.weight": torch.randn(outputs, 4),
        }
    save_file(tensors, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize(
    ("linear", "fused"),
    [
        ("fp8", True),
        ("int8", False),
        pytest.param("fp8", False, marks=pytest.mark.slow),
        pytest.param("int8", True, marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_loads_paints_the_same_and_does_not_read_the_trained_transformer(
    linear: str, fused: bool, model_folder: Path, lora: Path, weights_folder: Path
) -> None:
    loras = [{"path": str(lora), "scale": 0.5}] if fused else []
    model = {"path": str(model_folder), "lora": loras}
    checkpoint = resolve(make_job("", **model).model)
    alone, first = (
        build(make_job(where, linear, **model), checkpoint) for where in ("", weights_folder)
    )
    (model_folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    later = build(make_job(weights_folder, linear, **model), checkpoint)
    assert [trained for _, trained in (alone, first, later)] == [True, True, False]
    assert_equal(alone[0], first[0])
    assert_equal(alone[0], later[0])
    assert len(list(weights_folder.iterdir())) == 1


@pytest.mark.slow
def test_another_family_is_loaded_alike(tmp_path: Path, weights_folder: Path) -> None:
    model = {"path": str(save_sd3(tmp_path / "model"))}
    (alone, _), (first, _), (later, trained) = (
        build(make_job(where, **model)) for where in ("", weights_folder, weights_folder)
    )
    assert not trained
    assert_equal(alone, first)
    assert_equal(alone, later)


@pytest.mark.slow
def test_every_rank_of_a_replica_loads_the_one_file(weights_file: Path) -> None:
    with RankProcesses(2) as ranks:
        ranks.connect(Mesh(2, 1))
        alone, later = (
            ranks.run(paint, make_job(where), GROUP) for where in ("", weights_file.parent)
        )
        ranks.close()
    assert len({painted.bits for painted in [*alone, *later]}) == 1
    assert list(weights_file.parent.iterdir()) == [weights_file]


def test_whatever_decides_the_weights_names_another_file(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    words = job, "fp8", resolve(job.model), choose_device(job.engine, "fp8")
    _, linear, checkpoint, device = words
    fused = replace(checkpoint, identity={**checkpoint.identity, "lora/0/x": "sha256:1"})
    others = [
        (job, "int8", checkpoint, device),
        (make_job(tmp_path, lora=[{"path": "x", "scale": 1.0}]), linear, checkpoint, device),
        (make_job(tmp_path, lora=[{"path": "x", "scale": 2.0}]), linear, checkpoint, device),
        (job, linear, fused, device),
        (job, linear, checkpoint, replace(device, identity="another card")),
    ]
    paths = [choose_weights(*each).path for each in (words, *others)]
    assert len(set(paths)) == len(paths)
    assert choose_weights(*words).path == paths[0]


def test_the_folder_decides_no_picture(tmp_path: Path) -> None:
    assert make_job("").identity() == make_job(tmp_path).identity()
    assert weights_of(make_job("")).facts == weights_of(make_job(tmp_path)).facts


def test_a_folder_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = r"run\.quantized_weights: .*file/weights cannot be used: .*Name a folder"
    with pytest.raises(JobError, match=told):
        weights_of(make_job(tmp_path / "file" / "weights"))


@pytest.mark.slow
def test_of_workers_that_start_together_each_has_its_weights_and_one_file_is_left(
    weights_folder: Path,
) -> None:
    both, turn = threading.Barrier(2, timeout=60), threading.Lock()

    def load(*words: Any) -> Any:
        both.wait()  # both have found no file
        with turn:  # libraries load one model at a time
            family = load_family(*words)
        both.wait()
        return family

    job = make_job(weights_folder)
    checkpoint = resolve(job.model)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: build_engine(job, checkpoint, load=load), range(2))
    assert_equal(first, second)
    assert [path.suffix for path in weights_folder.iterdir()] == [".safetensors"]
    assert_equal(first, build(job)[0])


def test_a_file_that_appears_meanwhile_is_left_as_it_is(weights_folder: Path) -> None:
    def load(*words: Any) -> Any:
        build(make_job(weights_folder))
        (weights_file,) = weights_folder.iterdir()
        found.append(weights_file.stat())
        return load_family(*words)

    found: list[os.stat_result] = []
    build_engine(make_job(weights_folder), resolve(make_job("").model), load=load)
    (weights_file,) = weights_folder.iterdir()
    assert [weights_file.stat().st_ino, weights_file.stat().st_mtime_ns] == [
        found[0].st_ino,
        found[0].st_mtime_ns,
    ]


def test_a_worker_does_not_write_while_another_does_and_removes_what_a_killed_one_left(
    weights_folder: Path,
) -> None:
    path = weights_of(make_job(weights_folder)).path
    half = path.with_name(f".{path.name}.0123.tmp")
    half.touch()
    build(make_job(weights_folder))
    assert list(weights_folder.iterdir()) == [half]
    os.utime(half, (0, time.time() - 7200))
    build(make_job(weights_folder))
    assert list(weights_folder.iterdir()) == [path]


def test_without_room_for_the_file_a_worker_says_so_and_goes_on(
    weights_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    try:
        engine, _ = build(make_job(weights_folder))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    told = "quantized weights could not be written ([Errno 27] File too large); later workers"
    assert told in caplog.text
    assert not list(weights_folder.iterdir())
    assert engine.denoise(GROUP).latents.isfinite().all()
