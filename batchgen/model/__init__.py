"""A model folder in diffusers layout, checked and identified without torch.

    checkpoint.py   folder or hub id → Checkpoint
    families.py     what planning must know of a model family: components, tokens, FLOP
    expected.py     the tensors of a component, name → shape
    configs.py      the configurations of components, checked
    folder.py       components of a folder, and the files that loading reads
    weights.py      headers of weight files; a digest that need not read all of a file
    tiny/           the embedded model, a FLUX.1 small enough for a laptop (made by training/)

A room imports only rooms below it.
"""

from batchgen.model.checkpoint import TINY, Checkpoint, resolve
from batchgen.model.weights import digest, read_header

__all__ = ["TINY", "Checkpoint", "digest", "read_header", "resolve"]
