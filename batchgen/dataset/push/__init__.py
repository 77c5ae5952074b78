"""A run's dataset, sent to where readers get it.

    push.py    what goes, in which order; again and again while the run goes on
    hub.py     a dataset repository of the Hugging Face hub
    store.py   whatever else fsspec reaches: object stores, folders, other machines
    item.py    a file of the dataset, its hashes, and whether it is still that

A room imports only rooms below it.
"""

from batchgen.dataset.push.push import Pushed, push_run

__all__ = ["Pushed", "push_run"]
