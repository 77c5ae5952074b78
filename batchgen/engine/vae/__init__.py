"""Latents → pixels.

    decode.py           whole pictures
    banded_decoder.py   one large picture, in bands, by one rank or several
    bands.py            convolution, norm and attention over bands

A room imports only rooms below it.
"""
