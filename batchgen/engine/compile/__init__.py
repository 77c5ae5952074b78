"""torch.compile of the blocks, sealed after the warm-up.

    compile_cache.py   run.compile_cache: one process compiles, all others load
    archive.py         a folder of compiled code as one checked file
    blocks.py          the transformer's blocks
    compiler.py        graphs counted; an unplanned one is an error

A room imports only rooms below it.
"""
