"""Latents → pixels.

    decode.py           a group of pictures, whole or in bands
    banded_decoder.py   one large picture in bands, by one rank or several
    one_frame.py        a VAE of videos as one of pictures
    bands.py            convolutions and norms over bands

Each file imports only files below it.
"""
