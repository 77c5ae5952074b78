"""8-bit linears.

    quantized_weights.py   run.quantized_weights: one worker writes the file, later ones read it
    weights_file.py        8-bit weights as a safetensors file
    quantize.py            FP8 and int8 linears
    rules.py               what a device can multiply; no torch

A room imports only rooms below it.
"""
