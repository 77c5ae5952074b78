"""Builds and runs small models on the emulated card, in a process of its own.

    python -m tests.cuda.drive GUARD.so '{"NAME": {"offload": "layers", "steps": 6}, …}'

prints what each run did, as JSON. A group is denoised while another thread decodes the group
before, as in a worker; or several ranks make it together, each in a thread.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import tempfile
import threading
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv[1]))  # before the program is imported

import torch

from batchgen.engine import build as program
from batchgen.engine.families.flux2 import Flux2
from batchgen.engine.interface import Denoised
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.cuda import streams, tensor
from tests.cuda.mutants import put_in
from tests.cuda.ranks import Exchanges
from tests.support import stock, tiny_families, tiny_family
from tests.support.sd3_folder import save_sd3
from tests.support.stock import make_picture, psnr

# Of each policy, settings with which some pictures of a group skip a step and others compute it.
CACHES: dict[str, dict[str, Any]] = {
    "none": {},
    "multistep": {"tolerance": 0.5},
    "first_block": {"threshold": 0.2},
    "teacache": {"threshold": 0.3},
    "adacache": {"threshold": 0.04},
    "schedule": {"skip": [2, 3, 5]},
    "replay": {"blocks": 0},
    "replay, measuring": {"blocks": 1},
}
_expected: dict[str, tuple[Denoised, Any]] = {}
_scratch = tempfile.TemporaryDirectory()
_choose_device = program.choose_device


@contextlib.contextmanager
def ragged() -> Iterator[None]:
    """FLUX.2 as if its texts kept their lengths, each row another one."""
    as_it_is = Flux2.conditions

    def conditions(family: Any, text: Any, *more: Any) -> Any:
        rows, tokens = text.tokens.shape[:2]
        own = tuple(tokens - 9 * (row % 3) for row in range(rows))
        return replace(as_it_is(family, text, *more), lengths=own)

    with (
        mock.patch.object(Flux2, "ragged", True),
        mock.patch.object(Flux2, "conditions", conditions),
    ):
        yield


def paint(*, mutant: str = "", again: bool = True, **settings: Any) -> dict[str, Any]:
    """Paint a group on the card, and on the CPU; with a fault put in, perhaps.

    :param again: denoise it once more, while it is decoded.
    """
    group, sections = _asked(**settings)
    before, expected = _expect(group, sections)
    # An engine of an earlier run, in circles of references.
    gc.collect()
    streams.report.faults.clear()
    with tensor.Emulation(), put_in(mutant):
        engine, decoded = _build("cuda", sections), []
        streams.report.waits.clear()
        try:
            denoised = engine.denoise(group)
            waits = dict(streams.report.waits)
            writer = threading.Thread(target=_decode, args=(engine, denoised, decoded))
            writer.start()
            second = engine.denoise(group) if again else denoised
            writer.join()
        except RuntimeError as error:
            return {"error": str(error), "faults": dict(streams.report.faults)}
        equal = torch.equal(denoised.latents.cpu(), second.latents.cpu())
        traces, identity = denoised.traces, engine.identity
        del denoised, second, engine
    return {
        "error": "",
        "faults": dict(streams.report.faults),
        "waits": waits,
        "psnr": psnr(expected, decoded[0]),
        "repeats": equal,
        "skipped": [[trace.skipped for trace in its] for its in (before.traces, traces)],
        "identity": identity,
    }


def share(*, ulysses: int, ring: int, mutant: str = "", **settings: Any) -> dict[str, Any]:
    """Have several ranks denoise a group on the card together, and one rank on the CPU."""
    group, sections = _asked(**settings)
    before, _ = _expect(group, sections)
    mesh, made = Mesh(ulysses, ring), dict[int, Denoised]()
    exchanges = Exchanges(mesh.degree)
    # One after the other: transformers does not load in several threads.
    with tensor.Emulation():
        engines = [_build("cuda", sections, Ranks(rank, mesh)) for rank in range(mesh.degree)]
        torch.cuda.synchronize()
    streams.report.faults.clear()
    streams.report.waits.clear()

    def work(rank: int) -> None:
        with tensor.Emulation(), exchanges.of(rank):
            made[rank] = engines[rank].denoise(group)

    with exchanges, put_in(mutant):
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(mesh.degree)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    latents = [made[rank].latents.numbers for rank in sorted(made)]
    return {
        "error": exchanges.error,
        "faults": dict(streams.report.faults),
        "waits": dict(streams.report.waits),
        "calls": dict(exchanges.calls),
        "ranks": len(made),
        "alike": all(torch.equal(latents[0], other) for other in latents[1:]),
        "psnr": psnr(before.latents.float(), latents[0].float()) if latents else 0,
        "skipped": [[trace.skipped for trace in its.traces] for its in (before, *made.values())],
    }


def lend(*, waits: bool, records: bool) -> dict[str, Any]:
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


def _asked(
    *,
    model: str = "flux",
    steps: int = 6,
    pictures: int = 2,
    policy: str = "none",
    scale: float = 1,
    linear: str = "bf16",
    **engine: Any,
) -> tuple[Sequence[Picture], dict[str, Any]]:
    """A group of pictures, and the sections of the job that makes them.

    :param model: see `_open`.
    :param scale: of the first picture's classifier-free guidance.
    """
    folder, text_tokens, contrasts = _open(model)
    group = [make_picture(key, steps=steps) for key in range(pictures)]
    contrast = {"guidance": scale} if contrasts else {"true_cfg": scale}
    group[0] = make_picture(0, steps=steps, negative_prompt="blue", **contrast)
    cache = CACHES[policy] | {"policy": policy.split(",")[0]}
    if cache["policy"] == "replay":
        traces = {str(key): ("01" * steps)[key : key + steps - 1] for key in range(pictures)}
        cache["trace"] = _write("traces.json", {key: "0" + its for key, its in traces.items()})
    return group, {
        "model": {"path": folder, "max_sequence_length": text_tokens},
        "engine": engine,
        "precision": {"linear": linear},
        "compile": {"mode": "none"},
        "cache": cache,
    }


def _expect(group: Sequence[Picture], sections: dict[str, Any]) -> tuple[Denoised, Any]:
    """What the CPU makes of a group, and its first picture.

    Made once for all runs that differ only in what a CPU does not have.
    """
    asked = repr((Flux2.ragged, group, sections | {"engine": {}}))
    if asked not in _expected:
        engine = _build("cpu", sections)
        denoised = engine.denoise(group)
        _expected[asked] = denoised, engine.decode(denoised)[0]
    return _expected[asked]


def _build(device: str, sections: dict[str, Any], ranks: Ranks | None = None) -> TorchEngine:
    """An engine that computes in bf16 what is not in 8 bits, as on a card."""
    # A CPU has neither every kernel nor anything that can leave it.
    engine = sections["engine"] if device == "cuda" else {}
    job = parse_job(sections | {"engine": engine | {"device": device}}, "a test")

    def in_bf16(settings: Any, _: str) -> Any:
        return _choose_device(settings, "bf16")

    with mock.patch.object(program, "choose_device", in_bf16):
        return program.build_engine(job, resolve(job.model), ranks)


def _open(model: str) -> tuple[str, int, bool]:
    """A model's folder, its text tokens, and whether every picture of it is contrasted.

    :param model: "flux", the embedded one; "sd3", a small Stable Diffusion 3.5 with dual attention;
        or of `tiny_families.FAMILIES`.
    """
    if model == "flux":
        return "tiny", stock.TEXT_TOKENS, False
    family = tiny_families.FAMILIES.get(model)
    folder = Path(_scratch.name) / model
    if not folder.exists():
        (family.save if family else save_sd3)(folder)
    if family is None:
        return str(folder), stock.TEXT_TOKENS, True
    return str(folder), tiny_family.TEXT_TOKENS, family.contrasts


def _write(name: str, value: Any) -> str:
    path = Path(_scratch.name) / name
    path.write_text(json.dumps(value))
    return str(path)


def _decode(engine: TorchEngine, denoised: Denoised, decoded: list[Any]) -> None:
    with tensor.Emulation():
        decoded.append(engine.decode(denoised)[0])


def _install_flash_attention_3() -> None:
    """The package's function, as its documentation has it: [R, S, H, E] each."""

    def attend(q: Any, k: Any, v: Any) -> Any:
        heads_first = (x.transpose(1, 2) for x in (q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(*heads_first).transpose(1, 2)

    module: Any = types.ModuleType("flash_attn_interface")
    module.__spec__, module.flash_attn_func = ModuleSpec(module.__name__, None), attend
    sys.modules[module.__name__] = module


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    if "records" in settings:
        return lend(**settings)
    with ragged() if settings.pop("ragged", False) else contextlib.nullcontext():
        return share(**settings) if "ulysses" in settings else paint(**settings)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    _install_flash_attention_3()
    # What was imported stays: it need not be looked through whenever garbage is collected.
    gc.collect()
    gc.freeze()
    print(json.dumps({name: _run(its) for name, its in json.loads(sys.argv[2]).items()}))
