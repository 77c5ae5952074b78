"""The names in pickles of 0.1: of jobs that wait in SLURM, and of supervisors that still run.

Goes with 0.3.
"""

from batchgen.launch.local import work as start
from batchgen.launch.slurm_array import Element

__all__ = ["Element", "start"]
