"""torch.compile of the transformer's blocks. After the warm-up no more code is compiled.

    compile_cache.py   run.compile_cache: one process compiles, all others load
    archive.py         a folder of compiled code as one checked file
    blocks.py          which graphs the blocks need, and the warm-up that makes them
    compiler.py        counts graphs, and refuses new ones after the warm-up

A room imports only rooms below it.
"""
