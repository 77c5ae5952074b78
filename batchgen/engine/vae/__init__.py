"""Latents → pixels.

    decode.py           a group of pictures, whole or in bands
    banded_decoder.py   one large picture in bands, by one rank or several
    bands.py            convolutions and norms over bands

Each file imports only files below it.
"""
