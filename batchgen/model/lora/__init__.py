"""A LoRA file, read without torch: which linears of a model it changes, and how strongly.

`engine/families/lora.py` adds what `read_lora` found. Whatever a file holds is fused or refused by
name: nothing stays unapplied in silence.

    additions.py      a file and a model's linears → what is added to which of them
    strength.py       alpha and rank → the factor of a product
    peft_settings.py  the settings of peft that a file brings
    names.py          how tools write the names of linears
    authors.py        what models' authors call their linears: a table
    numbers.py        alphas, and whether all numbers are finite
    tensors.py        names of tensors → the two matrices and the alpha of each module

A room imports only rooms below it.
"""

from batchgen.model.lora.additions import Addition, lora_files, read_lora
from batchgen.model.lora.names import Shape, is_table, linear_name

__all__ = ["Addition", "Shape", "is_table", "linear_name", "lora_files", "read_lora"]
