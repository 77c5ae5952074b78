"""Imports without the words that say nothing to anybody who makes pictures."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

# Logger → part of what it says, and why that is no news here. Whatever else these loggers say is heard, and all of it at other times.
_NOISE = {
    # Of its compiled kernels each fits one kind of card or Python alone; we use none of them (`quantize.py` asks for PyTorch's own).
    "torchao": "Failed to load",
    "torchao.kernel.intmm": "Detected no triton",
    # How torchao registers its enums will be an error in some later PyTorch: constraints.txt holds versions that go together.
    "torch.utils._pytree": "is an Enum subclass",
    # Checkpoints that torchao quantized are not loaded here (`checkpoint.py` refuses them).
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    # Image processors are for models that see pictures; ours make them.
    "transformers.utils.import_utils": "requires torchvision",
}


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """While torchao is imported, or transformers and diffusers, which import it whether it is needed or not."""
    filters = {logging.getLogger(name): _Without(words) for name, words in _NOISE.items()}
    for logger, noise in filters.items():
        logger.addFilter(noise)
    try:
        yield
    finally:
        for logger, noise in filters.items():
            logger.removeFilter(noise)


class _Without(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self._words not in record.getMessage()
