"""The old name of `batchgen.launch.requeue`, for jobs of 0.1 that wait in SLURM.

Goes with 0.3.
"""

from batchgen.launch.requeue import main

if __name__ == "__main__":
    main()
