"""Quantized once, loaded ever after: the first worker writes its transformer to a file, all later ones read that and not the checkpoint's.

Of FLUX.1-dev the file has 15 GB instead of 24, and what is quantized is never on the device in its trained precision. A CPU, whose other
weights are fp32, maps the file: workers of one machine share its pages. Measured there, one thread, 442 million weights, FP8, files cached
by the system: a worker is ready after 0.2 s instead of 2.2 s, and takes 1.4 GB at most instead of 3.3 GB.

A file's name is a hash of all that decides what is in it. So a change of anything makes another file, files of many models may lie in one
folder, and none is ever replaced. They may be removed at any time.

Nobody waits for a file: who finds none loads the checkpoint, and quantizes. Then it writes, unless another is at it. Should two write, one
link counts (`durable.py`), and both files are the same. What cannot be written, on a full disk say, is told and left: every picture can be
made without, and a run's GPU-hours are worth more than the minutes that later starts would save.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from batchgen import __version__, durable
from batchgen.engine.device import Device
from batchgen.engine.families.family import Family
from batchgen.engine.modulation import Modulator
from batchgen.engine.precision.quantize import Format, choose_format, quantize_blocks
from batchgen.engine.precision.rules import Quantized
from batchgen.engine.precision.weights_file import check_header, load_quantized, write_quantized
from batchgen.errors import JobError
from batchgen.model import Checkpoint
from batchgen.settings import Job

VERSION = 2  # of what files hold: another one, when the same job gives other tensors or other names
_ABANDONED_S = 3600.0  # a file that has not grown for so long will not be finished

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class QuantizedWeights:
    """How a transformer's blocks are quantized, and its file."""

    how: Format
    facts: dict[str, Any]  # all that decides the weights, in JSON types
    path: Path | None  # None: neither read nor written

    def stored(self) -> bool:
        """Whether there is a file; then the transformer need have no weights when it is handed to `install`.

        :raises ModelError: the file is not to be trusted.
        """
        if self.path is None or not os.path.lexists(self.path):
            return False
        check_header(self.path, self.facts)
        return True

    def install(self, family: Family, modulator: Modulator, device: torch.device) -> int:
        """Quantize the blocks' linears, in place, and keep them in the file; or load all from it, on the meta device. Counts linears.

        :raises ModelError: a block holds a matrix that cannot be quantized, or the file does not fit.
        """
        model = nn.ModuleDict({"transformer": family.transformer, "modulator": modulator})
        if family.transformer.device.type == "meta":
            assert self.path is not None, "without a file the transformer has weights"
            count = load_quantized(self.path, model, family.blocks, self.how, self.facts, device)
            _log.info("%s: quantized weights were loaded", self.path)
        else:
            count = quantize_blocks(family.blocks, self.how, device)
            if (
                self.path is not None
                and not self.path.exists()
                and not _is_being_written(self.path)
            ):
                _publish(self.path, model, self.facts)
        model.requires_grad_(requires_grad=False)  # either way: compilers look code up by it too
        return count


def choose_weights(
    job: Job, linear: Quantized, checkpoint: Checkpoint, device: Device
) -> QuantizedWeights:
    """Those of a job.

    :param linear: its `precision.linear`.
    :raises JobError: the device does not multiply so, or the folder for files cannot be used.
    """
    how = choose_format(linear, job.precision.granularity, device.kind)
    facts = {
        "version": VERSION,
        "software": {
            "batchgen": __version__,
            **{name: importlib.metadata.version(name) for name in ("torchao", "diffusers")},
        },
        "model": checkpoint.identity,  # LoRAs too
        "lora_scales": [lora.scale for lora in job.model.lora],
        "format": asdict(how),
        "device": device.identity,  # PyTorch's version too. Devices may differ in how they round a LoRA's product
    }
    if not job.run.quantized_weights:
        return QuantizedWeights(how, facts, None)
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return QuantizedWeights(
        how, facts, _usable(Path(job.run.quantized_weights).expanduser()) / f"{key}.safetensors"
    )


def _usable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        next(folder.iterdir(), None)
    except OSError as error:
        raise JobError(
            f"run.quantized_weights: {folder} cannot be used: {error}. Give it a folder of yours."
        ) from None
    return folder


def _publish(path: Path, model: nn.Module, facts: dict[str, Any]) -> None:
    """Give the model's file its name once it is complete."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write_quantized(temporary, model, facts)
        durable.link(temporary, path)
    except OSError as error:
        _log.warning(
            "%s: quantized weights could not be written (%s); going on without, and later workers too",
            path,
            error,
        )
    else:
        _log.info("%s: quantized weights were written for later workers", path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _is_being_written(path: Path) -> bool:
    """Whether another worker is at it. Removes what workers that were killed left."""
    for other in path.parent.glob(f".{path.name}.*.tmp"):
        with contextlib.suppress(OSError):  # it is finished, or removed by another
            if time.time() - other.stat().st_mtime < _ABANDONED_S:
                return True
            other.unlink()
    return False
