"""Runs a row of `benchmarks/gpu_rows.py` on the emulated card.

    python -m tests.cuda.rehearse GUARD.so bf16 FOLDER --small --compile none

with the row's own parameters, standard input and output. 8-bit linears are not emulated.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

from tests.cuda import card

if __name__ == "__main__":
    card.insert(Path(sys.argv.pop(1)))  # before the program is imported

from batchgen.engine.torch_engine import TorchEngine
from benchmarks import gpu_rows
from tests.cuda import tensor
from tests.cuda.streams import report

_decode = TorchEngine.decode


def decode_on_the_card(engine: TorchEngine, denoised: Any) -> Any:
    """A worker decodes in a thread of its own, which must know of the card too."""
    with tensor.Emulation():
        return _decode(engine, denoised)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tensor.Emulation(), mock.patch.object(TorchEngine, "decode", decode_on_the_card):
        gpu_rows.main()
    assert not report.faults, dict(report.faults)
