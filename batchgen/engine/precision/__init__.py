"""8-bit linears.

    quantized_weights.py   run.quantized_weights: written once, read ever after
    weights_file.py        8-bit weights as a safetensors file
    quantize.py            FP8 and int8 linears
    rules.py               what a device can multiply. No torch

A room imports only rooms below it.
"""
