"""Imports and loading of heavy libraries, without log lines that tell a user nothing."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping

# Logger → part of the line that is dropped. All other lines of these loggers are kept.
_NOISE = {
    # Its own compiled kernels are not used: `precision/quantize.py` asks for PyTorch's.
    "torchao": "Failed to load",
    "torchao.kernel.intmm": "Detected no triton",
    # The way torchao registers its enums will be an error in some later PyTorch. constraints.txt
    # holds versions that go together.
    "torch.utils._pytree": "is an Enum subclass",
    # Checkpoints that torchao quantized are refused (`model/component_reader.py`).
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    # Image processors serve models that see pictures. The models here make them.
    "transformers.utils.import_utils": "requires torchvision",
}


@contextlib.contextmanager
def quiet_imports() -> Iterator[None]:
    """Drop the noise while torchao is imported, or transformers and diffusers, which import it."""
    with without_lines(_NOISE):
        yield


@contextlib.contextmanager
def without_lines(noise: Mapping[str, str]) -> Iterator[None]:
    """Drop log lines meanwhile.

    :param noise: logger → part of the lines.
    """
    filters = {logging.getLogger(name): _Without(words) for name, words in noise.items()}
    for logger, drop in filters.items():
        logger.addFilter(drop)
    try:
        yield
    finally:
        for logger, drop in filters.items():
            logger.removeFilter(drop)


class _Without(logging.Filter):
    def __init__(self, words: str) -> None:
        super().__init__()
        self._words = words

    def filter(self, record: logging.LogRecord) -> bool:
        return self._words not in record.getMessage()
