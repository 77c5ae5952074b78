"""A model folder in diffusers layout, checked and identified without torch.

    checkpoint.py   folder or hub id → Checkpoint
    families.py     what planning must know of a model family: tokens, FLOP
    weights.py      is a weight file whole; a digest that need not read all of it
    tiny/           the embedded model, a FLUX.1 small enough for a laptop (training/ made it)

A room imports only rooms below it.
"""

from batchgen.model.checkpoint import TINY, Checkpoint, resolve
from batchgen.model.weights import digest, read_header

__all__ = ["Checkpoint", "TINY", "digest", "read_header", "resolve"]
