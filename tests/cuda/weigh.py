"""How much memory a model of true size takes on a card, step by step. Nothing is computed.

    python -m tests.cuda.weigh GUARD.so FOLDER '[{"side": 1024, "batch": 4}, …]'

The emulated card's tensors have no numbers, only shapes and storages, whose bytes are summed: what
PyTorch's tensors take, and not what libraries take within an operation. FOLDER has configurations
and tokenizers. Prints the peaks and what planning estimates, as JSON.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv[1]))  # before the program is imported

import torch

from batchgen.engine.build import build_engine
from batchgen.engine.device import Device
from batchgen.engine.precision.quantize import quantize_blocks
from batchgen.engine.precision.quantized_weights import QuantizedWeights
from batchgen.model.checkpoint import resolve
from batchgen.planning.memory import estimate_memory
from batchgen.planning.plan import Shape
from batchgen.settings.job import parse_job
from benchmarks.random_flux import _default_dtype
from tests.cuda import tensor
from tests.cuda.streams import report
from tests.support.stock import make_picture

STEPS = 2


def shapes_alone(folder: Path, component: str, kind: Any, device: Device) -> Any:
    """In the place of `load_module`."""
    config = json.loads((folder / component / "config.json").read_text())
    with torch.device("meta"), _default_dtype(device.dtype):
        if hasattr(kind, "from_config"):
            return kind.from_config(config).eval()
        return kind(kind.config_class.from_dict(config)).eval()


def quantize(how: QuantizedWeights, family: Any, _: Any, device: torch.device) -> int:
    """In the place of `QuantizedWeights.install`, which looks for weights without numbers."""
    return quantize_blocks(family.blocks, how.how, device)


def weigh(folder: str, *, side: int, batch: int, **sections: Any) -> dict[str, Any]:
    usual = {
        "model": {"path": folder, "max_sequence_length": 512},
        "engine": {"device": "cuda", "batch_size": batch},
        "compile": {"mode": "none"},
    }
    job = parse_job(usual | sections, "a test")
    checkpoint = resolve(job.model)
    need = estimate_memory(job, checkpoint, [Shape(side, side, STEPS, False, batch)], cuda=True)
    group = [make_picture(key, width=side, height=side, steps=STEPS) for key in range(batch)]
    loading = mock.patch("batchgen.engine.families.load_module", shapes_alone)
    quantizing = mock.patch.object(QuantizedWeights, "install", quantize)
    with tensor.Emulation(), loading, quantizing:
        engine = build_engine(job, checkpoint)
        weights = report.most_bytes = report.bytes
        denoised = engine.denoise(group)
        denoising, report.most_bytes = report.most_bytes - weights, report.bytes
        engine.decode(denoised)
        decoding = report.most_bytes - weights
        del engine, denoised
    return {
        "faults": dict(report.faults),
        "weights": [weights, need.transformer + need.encoders + need.vae],
        "denoising": [denoising, need.denoising],
        "decoding": [decoding, need.decoding],
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tensor.place = torch.device("meta")
    print(json.dumps([weigh(sys.argv[2], **run) for run in json.loads(sys.argv[3])]))
