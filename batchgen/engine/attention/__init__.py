"""The attention of every block: one processor and one kernel, chosen once.

    joint.py         the processor put into every block; q, k and v from one linear
    log_sum_exp.py   attention to some of the keys, with what is needed to merge the parts
    kernels.py       cuDNN, flash, FlashAttention 3, math: which one a job gets

A room imports only rooms below it.
"""
