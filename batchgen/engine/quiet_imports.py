"""Imports of heavy libraries, without their log lines that tell a user nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

# Logger → part of the line that is dropped. All other lines of these loggers are kept.
_NOISE = {
    # Its own compiled kernels are not used: `precision/quantize.py` asks for PyTorch's.
    "torchao": "Failed to load",
    "torchao.kernel.intmm": "Detected no triton",
    # The way torchao registers its enums will be an error in some later PyTorch. constraints.txt
    # holds versions that go together.
    "torch.utils._pytree": "is an Enum subclass",
    # Checkpoints that torchao quantized are refused (`model/checkpoint.py`).
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    # Image processors serve models that see pictures. The models here make them.
    "transformers.utils.import_utils": "requires torchvision",
}


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop the noise while torchao is imported, or transformers and diffusers, which import it."""
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
