"""Risky trials: each runs in a process of its own, for a driver or a library may crash or hang it.

    python -m batchgen.doctor.trial NAME WORDS…

The last line of standard output is the answer, as JSON: what the trial returned, or `error`.
Everything goes through the engine's own code: the linear layers, attention and exchange that a run
would use.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchgen.errors import JobError, brief

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# The relative error that nothing but a wrong kernel has: 8 bits have 4%, attention in bf16 has 1%.
_WRONG = 0.1
# Seconds that ranks wait for each other.
_PEER_S = 40.0


def cards() -> dict[str, Any]:
    """PyTorch, and the CUDA cards that it can compute on."""
    import torch

    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "why": ""}
    found["cards"] = listed = []
    try:
        if torch.version.cuda:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        for number in range(torch.cuda.device_count()):
            device = torch.device("cuda", number)
            torch.ones(2, device=device).sum().item()
            free, total = torch.cuda.mem_get_info(device)
            capability = torch.cuda.get_device_capability(device)
            name = torch.cuda.get_device_name(device)
            listed.append({"name": name, "free": free, "total": total, "capability": capability})
    except RuntimeError as error:
        found["why"] = str(error).partition("\n")[0]
    return found


def engine() -> dict[str, Any]:
    """Import everything that a worker imports."""
    import batchgen.engine.replica.replica  # noqa: F401

    return {}


def linear(kind: str) -> dict[str, Any]:
    """Multiply in 8 bits, and compare with the plain product."""
    import torch

    from batchgen.engine.precision.quantize import choose_format, quantize_linear

    device = _device()
    torch.manual_seed(0)
    layer = torch.nn.Linear(256, 256, bias=False, device=device, dtype=_dtype(device))
    x = torch.randn(64, 256, device=device, dtype=_dtype(device))
    with torch.no_grad():
        plain = layer(x)
        quantize_linear(layer, choose_format(kind, "row", device))  # type: ignore[arg-type]
        return _compared(layer(x), plain)


def attention(kernel: str) -> dict[str, Any]:
    """Attend with one kernel, and compare with the formula."""
    import torch

    from batchgen.engine.attention.kernels import choose_attention

    device = _device()
    try:
        attend, _ = choose_attention(kernel, device, torch.bfloat16)
    except JobError as error:
        return {"absent": str(error)}
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 1, 128, 8, 128, device=device, dtype=torch.bfloat16)
    written_out, _ = choose_attention("math", device, torch.bfloat16)
    with torch.no_grad():
        return _compared(attend(q, k, v), written_out(q, k, v))


def compiler() -> dict[str, Any]:
    """Compile a function that no cache has, run it, and compare."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.environ["TRITON_CACHE_DIR"] = folder
        x = torch.linspace(0.0, 1.0, 4096, device=_device()).view(64, 64)

        def function(x: Tensor) -> Tensor:
            return (x.sin() * 2 + 1).sum(-1)

        compiled: Callable[[Tensor], Tensor] = torch.compile(function)
        return _compared(compiled(x), function(x))


def rank(number: str, folder: str, nodes: str = "1") -> dict[str, Any]:
    """Be one of two ranks that find each other by a file and exchange a tensor.

    They meet and connect as the ranks of a replica do; over NCCL, if each can have a card.

    :param nodes: "1" if both are on this machine, "2" if each is on a node of its own.
    """
    import torch

    from batchgen import durable
    from batchgen.engine.interface import Rendezvous
    from batchgen.engine.parallel.collectives import Ranks
    from batchgen.engine.parallel.mesh import Mesh
    from batchgen.engine.replica import rendezvous as meeting
    from batchgen.engine.replica.process_group_store import ProcessGroupStore

    own, address, one_machine = int(number), Path(folder) / "address", nodes == "1"
    card = own if one_machine else 0
    cuda = torch.cuda.device_count() > (1 if one_machine else 0)
    device = torch.device("cuda", card) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    here = Rendezvous(
        own,
        2,
        publish=lambda text: durable.write(address, text.encode(), durable.PRIVATE),
        find=lambda: address.read_text() if address.exists() and address.stat().st_size else "",
        one_machine=one_machine,
    )
    store = meeting.open_store(here)
    meeting.wait_for_all(store, here)
    if one_machine:
        meeting.keep_to_this_machine()
    began, passed = time.monotonic(), ProcessGroupStore(store.another())
    ranks = Ranks.connect(passed, own, Mesh(2, 1), device, _PEER_S)
    total = ranks.sum(torch.full((1 << 20,), own + 1.0, device=device))
    ranks.close()
    meeting.leave_together(store, here, _PEER_S)
    library, seconds = "NCCL" if cuda else "gloo", time.monotonic() - began
    return {"library": library, "seconds": seconds} | _compared(total, torch.full_like(total, 3.0))


def hub(model: str, revision: str) -> dict[str, Any]:
    """Ask the hub for a model's index; without a model, whether it answers at all."""
    import huggingface_hub
    from huggingface_hub import constants

    from batchgen.model.locate import HUB_TIMEOUT_S, INDEX, is_answer

    found = {"token": huggingface_hub.get_token() is not None, "why": "", "refused": False}
    found["offline"] = constants.HF_HUB_OFFLINE
    wanted = revision or None
    cached = model and huggingface_hub.try_to_load_from_cache(model, INDEX, revision=wanted)
    found["cached"] = bool(model) and isinstance(cached, str)
    if constants.HF_HUB_OFFLINE:
        return found
    try:
        if model:
            url = huggingface_hub.hf_hub_url(model, INDEX, revision=wanted)
            huggingface_hub.get_hf_file_metadata(url, timeout=HUB_TIMEOUT_S)
        else:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - its HTTP library is not named in its interface
        found |= {"why": _told(error), "refused": is_answer(error)}
    return found


def _device() -> torch.device:
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype(device: torch.device) -> torch.dtype:
    import torch

    return torch.bfloat16 if device.type == "cuda" else torch.float32


def _compared(found: Tensor, wanted: Tensor) -> dict[str, Any]:
    """The relative error of what was computed, if it can be explained by rounding."""
    error = float((found.float() - wanted.float()).norm() / wanted.float().norm())
    if not error < _WRONG:  # NaN is not
        return {"error": f"it computes wrong numbers: their relative error is {error:.2g}"}
    return {"off": error}


def _told(error: BaseException) -> str:
    """An exception in a line, without what a URL may hold of a password."""
    text = brief(re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split())), 300)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


TRIALS: dict[str, Callable[..., dict[str, Any]]] = {
    trial.__name__: trial for trial in (cards, engine, linear, attention, compiler, rank, hub)
}


def main() -> None:
    """Answer child.py."""
    # Libraries print to standard output too: only the answer goes where it is read.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        name, *words = sys.argv[1:]
        try:
            answer = TRIALS[name](*words)
        except Exception as error:  # noqa: BLE001 - whatever fails is the finding
            answer = {"error": _told(error)}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
