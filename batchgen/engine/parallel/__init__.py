"""Several ranks make a picture together: they share its tokens, its two rows of guidance, or both.

    ulysses_ring.py   cp: attention over ranks that share the tokens
    halves.py         cfg: which half computes which rows, and how their velocities meet
    collectives.py    split, gather, sum, exchange, rotate
    mesh.py           how many ranks do Ulysses and ring, and who holds which tokens; no torch

Each file imports only files below it.
"""
