"""The attention of every block: one processor and one kernel, chosen once.

    joint.py            the processor put into every block
    fuse.py             linears and norms that read the same tokens become one
    gated_mlp.py        SwiGLU: gate and value from one linear
    parallel_block.py   FLUX.1's single blocks: attention and MLP from one linear
    heads.py            q and k normalised and rotated, before text and image are joined
    lengths.py          texts of their own lengths: nothing attends to padding
    opaque.py           attention that compiled blocks call without looking inside
    log_sum_exp.py      attention to some of the keys, with what is needed to merge the parts
    kernels.py          cuDNN, flash, FlashAttention 3, math: which one a job gets

A room imports only rooms below it.
"""
