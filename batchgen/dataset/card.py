"""The dataset card: what the Hugging Face loader reads (YAML) and what people read."""

from __future__ import annotations

import json

from batchgen.dataset.statistics import Statistics
from batchgen.run import Run

_CATEGORIES = [
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
]


def dataset_card(run: Run, statistics: Statistics) -> str:
    """Markdown with YAML front matter; `configs` names the tars, so that no folder name is taken for a split."""
    output, model = run.job.output, run.job.model
    name = run.directory.root.name
    painter = (
        "the pattern engine (test cards, not a model)"
        if run.job.engine.kind == "pattern"
        else f"`{model.path}`"
    )
    category = next((label for limit, label in _CATEGORIES if statistics.ok < limit), "n>100M")
    return f"""---
pretty_name: {json.dumps(name)}
license: {output.license}
task_categories:
- text-to-image
size_categories:
- {category}
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.tar
---

# {name}

{statistics.ok:,} pictures painted by {painter} from {run.plan.rows:,} prompts, made with batchgen {run.plan.software["batchgen"]}.
{_failures(statistics)}
Each sample holds `{output.format}` (the picture), `txt` (its prompt) and `json` (key, id, seed, size, steps, guidance and the
manifest's other columns as the JSON string `extra`). `metadata/*.parquet` holds a record for every planned picture, failed
ones too, with all times. `contact.jpg` shows the first pictures; `statistics.json` has the numbers below and more.

## Load

```python
from datasets import load_dataset

dataset = load_dataset("{name}", split="train")  # the folder's path; streaming=True works too
```

```python
import webdataset as wds
from pathlib import Path

tars = [str(tar) for tar in sorted(Path("{name}/data").glob("*.tar"))]
pictures = wds.WebDataset(tars, shardshuffle=100).decode("pil").to_tuple("{output.format}", "txt")
```

```python
import wids  # pip install wids

pictures = wids.ShardListDataset("{name}/index.json")  # random access
```

## What is in it

| size | pictures |
|---|---|
{_rows(statistics.sizes)}

Seconds of the group a picture was in:

| stage | mean | median | 95% |
|---|---|---|---|
{_times(statistics)}

| | |
|---|---|
| plan fingerprint | `{run.plan.fingerprint}` |
| planned | {run.plan.created} |
| software | {", ".join(f"{package} {version}" for package, version in run.plan.software.items())} |
"""


def _failures(statistics: Statistics) -> str:
    if not statistics.failed:
        return ""
    causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(statistics.failures.items()))
    return f"{statistics.failed:,} of {statistics.pictures:,} planned pictures could not be made ({causes}).\n"


def _rows(counts: dict[str, int]) -> str:
    return "\n".join(f"| {name} | {count:,} |" for name, count in sorted(counts.items()))


def _times(statistics: Statistics) -> str:
    return "\n".join(
        f"| {stage.removesuffix('_s').replace('_', ' ')} | {s['mean']:.3f} | {s['p50']:.3f} | {s['p95']:.3f} |"
        for stage, s in statistics.seconds.items()
    )
