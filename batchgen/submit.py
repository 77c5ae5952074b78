"""The names in pickles of 0.1: of jobs that wait in SLURM, and of supervisors that still run.

Goes with 0.3.
"""

import sys
from types import ModuleType
from typing import Any

from batchgen.launch.local import work as start
from batchgen.launch.slurm_array import Element

__all__ = ["Element", "start"]


class _Callable(ModuleType):
    """Once imported, this module stands in the place of the function `batchgen.submit`."""

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        return sys.modules["batchgen"].__getattr__("submit")(*inputs, **options)


sys.modules[__name__].__class__ = _Callable
