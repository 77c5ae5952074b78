"""The old name of `batchgen.launch.supervisor`, for processes of 0.1 that still run.

Goes with 0.3.
"""

from batchgen.launch.supervisor import main

if __name__ == "__main__":
    main()
