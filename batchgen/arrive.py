"""The old name of `batchgen.launch.node_check`, for jobs of 0.1 that wait in SLURM.

Goes with 0.3.
"""

from batchgen.launch.node_check import main

if __name__ == "__main__":
    main()
