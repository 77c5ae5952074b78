"""The embedded model as stock diffusers loads it and as batchgen does."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from batchgen.engine.build import build_engine
from batchgen.engine.torch_engine import TorchEngine
from batchgen.model import TINY
from batchgen.model.checkpoint import resolve
from tests.support.stock import make_job

# PyTorch's own cache takes code for AVX-512 and for AVX2 (`ATEN_CPU_CAPABILITY`) for the same, and
# a linear in FP8 is NaN then. batchgen's archive tells them apart (engine/device.py).
_CAPABILITY = torch.backends.cpu.get_cpu_capability()
os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(
    Path(tempfile.gettempdir(), f"batchgen-inductor-{os.getuid()}-{_CAPABILITY}")
)


def _open(folder: Path) -> tuple[Any, TorchEngine]:
    stock = FluxPipeline.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    stock.set_progress_bar_config(disable=True)
    job = make_job("tiny" if folder == TINY else folder)
    return stock, build_engine(job, resolve(job.model))


@pytest.fixture(scope="session")
def dev() -> tuple[Any, TorchEngine]:
    """The embedded model, configured like FLUX.1-dev: stock pipeline and engine."""
    return _open(TINY)


@pytest.fixture(scope="session")
def schnell(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, TorchEngine]:
    """Random weights configured like FLUX.1-schnell: no embedded guidance, no dynamic shift."""
    folder = _copy_tiny(tmp_path_factory.mktemp("schnell"))
    torch.manual_seed(0)
    config = dict(FluxTransformer2DModel.load_config(folder, subfolder="transformer"))
    config["guidance_embeds"] = False
    FluxTransformer2DModel.from_config(config).save_pretrained(folder / "transformer")
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=False)
    scheduler.save_pretrained(folder / "scheduler")
    return _open(folder)


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the embedded model to be tampered with."""
    return _copy_tiny(tmp_path)


@pytest.fixture
def weights_folder(tmp_path: Path) -> Path:
    """A folder for quantized weights. It does not exist yet."""
    return tmp_path / "quantized" / "weights"


@pytest.fixture
def weights_file(weights_folder: Path) -> Path:
    """The embedded model's quantized weights, in FP8."""
    # Imported here, because it imports torchao.
    from tests.engine.precision import eight_bits

    eight_bits.build(eight_bits.make_job(weights_folder))
    (path,) = weights_folder.iterdir()
    return path


def _copy_tiny(parent: Path) -> Path:
    """A copy of the embedded model to be tampered with."""
    return Path(shutil.copytree(TINY, parent / "model"))
