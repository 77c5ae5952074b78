"""`python -m batchgen`: the console script where no console script is on the path."""

from batchgen.cli import main

if __name__ == "__main__":
    main()
