"""How much memory a model of true size takes on a card, step by step. Nothing is computed.

    python -m tests.cuda.weigh GUARD.so '[{"folder": "flux-dev", "groups": [[1024, 4]]}, …]'

The emulated card's tensors have no numbers, only shapes and storages, whose bytes are summed: what
PyTorch's tensors take, and not what libraries take within an operation. A folder has configurations
and tokenizers. Prints the peaks and what planning estimates, as JSON.
"""

from __future__ import annotations

import gc
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
from torch import Tensor

from batchgen.engine.build import build_engine
from batchgen.engine.offload.weights import Pinned, Weight
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.precision.quantized_weights import QuantizedWeights
from batchgen.engine.sizes import bands
from batchgen.engine.torch_engine import TorchEngine
from batchgen.engine.vae.banded_decoder import decode_in_bands
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.planning.decode_memory import decode_memory
from batchgen.planning.memory import estimate_memory
from batchgen.planning.plan import Shape
from batchgen.settings.job import Job, parse_job
from tests.cuda import tensor
from tests.cuda.streams import report
from tests.support.full_size import quantize_alone, shapes_alone
from tests.support.stock import make_picture

STEPS = 2


def settle(_: Pinned, weight: Weight) -> Tensor:
    """In the place of `Pinned.settle`, which fills the host's memory."""
    value = weight.value
    home = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    weight.put(home)
    return home


def weigh(
    *,
    folder: str,
    groups: list[tuple[int, int]],
    decode: bool = False,
    shared: list[tuple[int, int]] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """A model's weights, and what groups take beside them: pairs of measured and estimated bytes.

    :param groups: side in px and pictures of each.
    :param shared: side of pictures that several ranks decode together, and how many ranks.
    """
    usual = {"model": {"path": folder, "max_sequence_length": 512}, "compile": {"mode": "none"}}
    engine = {"device": "cuda", "batch_size": max(pictures for _, pictures in groups)}
    sections["engine"] = engine | sections.get("engine", {})
    job = parse_job(usual | sections, "a test")
    checkpoint = resolve(job.model)
    report.faults.clear()
    # An engine that was weighed before, in circles of references.
    gc.collect()
    with (
        tensor.Emulation(),
        mock.patch("batchgen.engine.families.load_module", shapes_alone),
        mock.patch.object(QuantizedWeights, "install", quantize_alone),
        mock.patch.object(Pinned, "settle", settle),
    ):
        built = build_engine(job, checkpoint)
        weights = report.bytes
        weighed = [
            _group(built, job, checkpoint, side, pictures, decode=decode)
            for side, pictures in groups
        ]
        shares = [_share(built, checkpoint, side, ranks) for side, ranks in shared or ()]
        del built
    need = estimate_memory(job, checkpoint, [Shape(1024, 1024, STEPS, False, 1)], cuda=True)
    return {
        "faults": dict(report.faults),
        "weights": [weights, need.phases[1].weights],
        "groups": weighed,
        "shares": shares,
    }


def _group(
    engine: TorchEngine, job: Job, checkpoint: Checkpoint, side: int, pictures: int, *, decode: bool
) -> dict[str, list[int]]:
    shape = Shape(side, side, STEPS, False, pictures)
    need = estimate_memory(job, checkpoint, [shape], cuda=True)
    group = [
        make_picture(key, width=side, height=side, steps=STEPS, guidance=3.5)
        for key in range(pictures)
    ]
    begin = report.most_bytes = report.bytes
    denoised = engine.denoise(group)
    # While a group is denoised, another one is decoded.
    beside = need.workspace + need.decoding
    most = max(phase.weights + phase.rest for phase in need.phases[:2]) - beside
    peaks = {
        "in all": [report.most_bytes, most],
        "denoising": [report.most_bytes - begin, need.denoising],
    }
    if decode:
        report.most_bytes = report.bytes
        engine.decode(denoised)
        peaks["decoding"] = [report.most_bytes - begin, need.decoding]
    del denoised
    return peaks


def _share(engine: TorchEngine, checkpoint: Checkpoint, side: int, ranks: int) -> list[int]:
    """What a rank of several takes to decode a picture.

    It is a rank alone with its share of the rows. Only what ranks exchange is left out: two rows of
    a layer, and the picture.
    """
    vae = checkpoint.vae
    rows, row = side // vae.reduction // ranks, side // vae.reduction
    with torch.device("cuda"):
        latents = torch.zeros(1, vae.latent_channels, rows, row, dtype=torch.bfloat16)
    begin = report.most_bytes = report.bytes
    decode_in_bands(engine.family.vae, latents, Ranks(), bands(side, side, ranks))
    planned = decode_memory(vae, Shape(side, side, STEPS, False, 1), 1, ranks=ranks, cuda=True)
    return [report.most_bytes - begin, planned * latents.element_size()]


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tensor.place = torch.device("meta")
    print(json.dumps([weigh(**its) for its in json.loads(sys.argv[2])]))
