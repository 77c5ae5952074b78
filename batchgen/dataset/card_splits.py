"""The dataset card's section about splits.

Hugging Face divides a dataset by its files. The tars of a run are ranges of its rows, and hold
pictures of all splits: there they are one split, which is not called `train`, so that nobody trains
on what was held out. A copy has tars for each split (split_copy.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from batchgen.dataset.statistics import Statistics
from batchgen.settings import Splits

# Split → pattern of its tars.
Files: TypeAlias = Mapping[str, str]
# The split of tars that hold pictures of several.
WHOLE = "pictures"


def splits_section(name: str, kind: str, statistics: Statistics, files: Files) -> str:
    """Which splits there are, and how to read one; nothing without any.

    :param name: the folder's, as a Python literal.
    :param kind: of the pictures: `jpg`.
    """
    if not statistics.splits:
        return ""
    bounds = Splits(**statistics.splits).bounds()
    counts = statistics.split_pictures
    rows = [
        f"| `{split}` | {counts[split]:,} | {low:.12g} ≤ `prompt_place` < {high:.12g} |"
        for split, (low, high) in bounds.items()
    ]
    table = "\n".join(["| split | pictures | records |", "|---|---|---|", *rows])
    apart = "Each split has tars of its own, and Hugging Face shows them.\n"
    held_out = [*bounds][-1]
    return f"""
## Splits

All pictures of a prompt are in one split, for a hash of its text decides: `prompt_place` in the
records.

{table}

{apart if len(files) > 1 else _together(name, kind, held_out)}"""


def _together(name: str, kind: str, split: str) -> str:
    return f"""\
A tar holds pictures of all splits. `batchgen.dataset` reads those of one:

```python
import batchgen

pictures = batchgen.dataset({name}, split="{split}").to_tuple("{kind}", "txt")
```

Hugging Face divides a dataset by its files: there it is one split, `{WHOLE}`. `batchgen split`
makes a copy with tars for each split.
"""
