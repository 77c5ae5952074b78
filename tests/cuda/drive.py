"""Builds and runs the embedded model on the emulated card, in a process of its own.

    python -m tests.cuda.drive GUARD.so '{"NAME": {"offload": "layers", "steps": 6}, …}'

prints what each run did, as JSON. In a run, a group is denoised while another thread decodes the
group before, as in a worker.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv[1]))  # before the program is imported

import torch

from batchgen.engine.build import build_engine
from batchgen.engine.families.flux import Flux
from batchgen.engine.torch_engine import TorchEngine
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.cuda import streams, tensor
from tests.support.stock import TEXT_TOKENS, make_picture, psnr

patch = mock.patch.object
CACHES: dict[str, dict[str, Any]] = {
    "none": {},
    "first_block": {"policy": "first_block", "threshold": 0.35},
    "multistep": {"policy": "multistep", "tolerance": 0.5},
}


def build(device: str, offload: str, cache: dict[str, Any]) -> TorchEngine:
    sections = {
        "model": {"path": "tiny", "max_sequence_length": TEXT_TOKENS},
        "engine": {"device": device, "offload": offload},
        "precision": {"linear": "bf16"},
        "compile": {"mode": "none"},
        "cache": cache,
    }
    job = parse_job(sections, "a test")
    return build_engine(job, resolve(job.model))


def paint(
    offload: str = "none",
    *,
    steps: int = 6,
    policy: str = "none",
    scale: float = 1,
    mutant: str = "",
) -> Any:
    """Paint a group twice on the card, and on the CPU; with a fault put in, perhaps.

    :param scale: of the first picture's classifier-free guidance.
    """
    cache, group = CACHES[policy], [make_picture(key, steps=steps) for key in range(2)]
    group[0] = make_picture(0, steps=steps, true_cfg=scale, negative_prompt="blue")
    expected = build("cpu", "none", cache)
    before = expected.denoise(group)
    streams.report.faults.clear()
    with tensor.Emulation(), put_in(mutant):
        engine, decoded = build("cuda", offload, cache), []
        streams.report.waits.clear()
        try:
            denoised = engine.denoise(group)
            waits = dict(streams.report.waits)
            writer = threading.Thread(target=_decode, args=(engine, denoised, decoded))
            writer.start()
            again = engine.denoise(group)
            writer.join()
        except RuntimeError as error:
            return {"error": str(error), "faults": dict(streams.report.faults)}
        equal = torch.equal(denoised.latents.cpu(), again.latents.cpu())
        del denoised, again, engine
    return {
        "error": "",
        "faults": dict(streams.report.faults),
        "waits": waits,
        "psnr": psnr(expected.decode(before)[0], decoded[0]),
        "repeats": equal,
        "skipped": [[trace.skipped for trace in traces] for traces in (before.traces, decoded[1])],
    }


def lend(*, waits: bool, records: bool) -> Any:
    """Use a tensor of another stream, and let it go."""
    streams.report.faults.clear()
    with tensor.Emulation():
        side: Any = torch.cuda.Stream()
        here: Any = torch.cuda.current_stream()
        with torch.cuda.stream(side):
            lent = torch.ones(4, device="cuda")
        if waits:
            here.wait_stream(side)
        lent.add(1)
        if records:
            lent.record_stream(here)
        del lent
    return {"faults": dict(streams.report.faults)}


def _decode(engine: TorchEngine, denoised: Any, decoded: list[Any]) -> None:
    with tensor.Emulation():
        decoded += [engine.decode(denoised)[0], denoised.traces]


@contextlib.contextmanager
def put_in(mutant: str) -> Iterator[None]:
    """A fault of the program, for a while; "" is none."""

    def asks_at_every_step(family: Any, image: Any, temb: Any) -> Any:
        image.isnan().any().item()
        return head(family, image, temb)

    def stays_on_the_host(_: Any, values: Any) -> Any:
        return torch.tensor(values)

    def goes_on(what: str) -> None:
        streams.report.wait(what)

    head = Flux.head
    patches: dict[str, list[Any]] = {
        "": [],
        "a tensor stays on the host": [patch(TorchEngine, "_tensor", stays_on_the_host)],
        "streams do not wait": [patch(streams.Event, "wait", lambda *_: None)],
        "the host does not wait": [
            patch(tensor, "wait_for_device", goes_on),
            patch(streams.Event, "synchronize", lambda _: None),
        ],
        "the host waits at every step": [patch(Flux, "head", asks_at_every_step)],
    }
    with contextlib.ExitStack() as stack:
        for change in patches[mutant]:
            stack.enter_context(change)
        yield


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    results = {
        name: (lend if "records" in settings else paint)(**settings)
        for name, settings in json.loads(sys.argv[2]).items()
    }
    print(json.dumps(results))
