"""Context parallelism: the tokens of a picture are shared among several ranks.

    ulysses_ring.py   attention over the ranks
    collectives.py    split, gather, sum, exchange, rotate
    mesh.py           how many ranks do Ulysses and ring, and who holds which tokens; no torch

Each file imports only files below it.
"""
