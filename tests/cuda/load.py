"""How much memory of the host a model takes while it is loaded onto a card.

    python -m tests.cuda.load GUARD.so '{"FOLDER": {"offload": "none"}, …}'

The card's tensors have no numbers, and the host's are real. Prints the most bytes that the process
held for itself, beyond what it held before, as JSON. Pages that are mapped from files do not count:
all processes of a node share them, and the kernel may drop them.
"""

from __future__ import annotations

import gc
import json
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv[1]))  # before the program is imported

import psutil
import torch

from batchgen.engine.build import build_engine
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.cuda import tensor

_PAUSE_S = 0.005


def own_bytes() -> int:
    """What this process alone holds."""
    memory = psutil.Process().memory_info()
    return int(memory.rss - memory.shared)


def load(folder: str, **engine: Any) -> int:
    sections = {
        "model": {"path": folder},
        "engine": engine | {"device": "cuda"},
        "compile": {"mode": "none"},
    }
    job = parse_job(sections, "a test")
    checkpoint = resolve(job.model)
    gc.collect()
    before = most = own_bytes()
    loaded = threading.Event()

    def watch() -> None:
        nonlocal most
        while not loaded.wait(_PAUSE_S):
            most = max(most, own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tensor.Emulation():
            build_engine(job, checkpoint)
    finally:
        loaded.set()
        watcher.join()
    return max(most, own_bytes()) - before


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    tensor.place = torch.device("meta")
    print(json.dumps({path: load(path, **its) for path, its in json.loads(sys.argv[2]).items()}))
