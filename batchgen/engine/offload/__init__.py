"""engine.offload: models that leave the device while they are not needed.

    residence.py   which models are on the device
    turns.py       blocks whose weights come to the device one after the other
    traveller.py   one model that comes and goes
    weights.py     weights at a place of one's choice

Each file imports only files below it.
"""
