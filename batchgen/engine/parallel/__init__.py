"""Context parallelism: the tokens of a picture over several ranks.

    ulysses_ring.py   attention over the ranks
    collectives.py    split, gather, sum, exchange, rotate
    mesh.py           Ulysses × ring: who holds which tokens. No torch

A room imports only rooms below it.
"""
