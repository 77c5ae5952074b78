"""The dataset card, README.md: YAML for the Hugging Face loader, and text for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from huggingface_hub import DatasetCardData

from batchgen.dataset.card_features import Feature
from batchgen.dataset.card_splits import WHOLE, Files, splits_section
from batchgen.dataset.provenance import forced_licence, how_made, known_as, model_name
from batchgen.dataset.scores import Scores
from batchgen.dataset.statistics import Statistics
from batchgen.errors import counted, one_line
from batchgen.planning import Plan
from batchgen.run import Run
from batchgen.shard import COLUMNS, Loss

# Of the records, for DuckDB.
_QUERY = """\
```sql
-- DuckDB, in the folder of the dataset: the dearest pictures, and where they are
SELECT key, tar, prompt, device_s FROM 'metadata/*.parquet' ORDER BY device_s DESC LIMIT 10;
```
"""
_LAST = """\
```sql
SELECT key, tar FROM 'metadata/*.parquet'
QUALIFY row_number() OVER (PARTITION BY key ORDER BY generation DESC) = 1 AND outcome = 'ok';
```
"""
# What a later generation makes.
_KINDS = {
    "retry": "what had failed, once more",
    "remake": "made again",
    "extend": "more rows",
    "rest": "the rest of a trial",
}
_CATEGORIES = [
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
]


def dataset_card(
    run: Run, statistics: Statistics, features: Sequence[Feature] = (), files: Files | None = None
) -> str:
    """Markdown with YAML front matter.

    :param features: of the samples; none: loaders infer them.
    :param files: of each split, where each has files of its own.
    """
    shown = files or {WHOLE if statistics.splits else "train": "data/*.tar"}
    first, tars = next(iter(shown.items()))
    plan, kind, name = run.plan, run.job.output.format, run.directory.root.name
    splits = splits_section(_quoted(name), kind, statistics, shown)
    pattern = run.job.engine.kind == "pattern"
    model = (
        "the pattern engine (test cards, not a model)"
        if pattern
        else f"`{one_line(model_name(run))}`"
    )
    pictures = counted(statistics.ok, "picture")
    return f"""---
{_front_matter(run, statistics, features, shown)}
---

# {name}

{pictures} painted by {model} from {counted(plan.rows, "prompt")}, made with
batchgen {plan.software["batchgen"]}.
{_failures(statistics)}{_again(statistics)}{_idle_columns(plan)}
Each sample holds `{kind}` (the picture), `txt` (its prompt) and `json` (key, id, seed, size,
steps, guidance{_extra(plan)}).
`metadata/*.parquet` holds a record for every planned picture, also if it failed, with all
times; its columns are explained below. [report.html](report.html) shows pictures from the whole
run and how it went, `contact.jpg` sixty of them; `statistics.json` has the numbers below and
more.

## Load

```python
from datasets import load_dataset

# The folder's path. streaming=True works too.
dataset = load_dataset({_quoted(name)}, split="{first}")
```

```python
import webdataset as wds
from pathlib import Path

tars = [str(tar) for tar in sorted(Path({_quoted(name)}).glob("{tars}"))]
pictures = wds.WebDataset(tars, shardshuffle=100).decode("pil").to_tuple("{kind}", "txt")
```

{_random_access(name) if len(shown) == 1 else ""}{_QUERY}{splits}
## What is in it

| size | pictures |
|---|---|
{_sizes(statistics)}

Seconds of the group a picture was in:

| stage | mean | median | 95% |
|---|---|---|---|
{_times(statistics)}
{_audit(run, statistics.loss)}{_scores(run, statistics.scores)}
## How the pictures were made

| | |
|---|---|
{how_made(run)}
| plan fingerprint | `{plan.fingerprint}` |
| planned | {plan.created} |
{_generations(plan)}| software | {_software(plan)} |
{forced_licence(run)}{_columns(plan)}"""


def _random_access(name: str) -> str:
    return f"""\
```python
import wids  # pip install wids

pictures = wids.ShardListDataset({_quoted(name, "index.json")})  # random access
```

"""


def _extra(plan: Plan) -> str:
    """How the sample's JSON has the manifest's other columns."""
    if plan.is_older:
        return " and the manifest's other columns as the JSON string `extra`"
    if not plan.json_types:
        return ""
    types = ", ".join(f"`{one_line(name)}` {kind}" for name, kind in plan.json_types.items())
    return (
        f"; in `extra` the manifest's other columns: {types}. A `json` is text with JSON in it. "
        "Where a row has no value, text is empty and everything else null"
    )


def _columns(plan: Plan) -> str:
    """What the columns of the records mean."""
    if plan.is_older:
        return ""
    rows = "\n".join(f"| `{one.name}` | {one.type} | {one.meaning} |" for one in COLUMNS)
    return f"\n## Columns of the records\n\n| column | type | |\n|---|---|---|\n{rows}\n"


def _front_matter(
    run: Run, statistics: Statistics, features: Sequence[Feature], files: Files
) -> str:
    category = next((label for limit, label in _CATEGORIES if statistics.ok < limit), "n>100M")
    # The tars are named, so that the loader takes no folder's name for a split.
    data_files = [{"split": split, "path": path} for split, path in files.items()]
    data = DatasetCardData(
        pretty_name=run.directory.root.name,
        license=run.job.output.license,
        task_categories=["text-to-image"],
        size_categories=[category],
        configs=[{"config_name": "default", "data_files": data_files}],
        dataset_info=_info(run.plan, statistics, features) if features else None,
    )
    return data.to_yaml().rstrip()


def _info(plan: Plan, statistics: Statistics, features: Sequence[Feature]) -> dict[str, Any]:
    """What Hugging Face's loader is told.

    It keeps what it has loaded by the folder's name and by what this says: without anything of the
    run's own, another run in a folder of that name would be taken for the one before.
    """
    told = f"batchgen run {plan.run}, generation {plan.last_generation}"
    for split, pictures in statistics.split_pictures.items():
        told += f", {split} {pictures}"
    return {"description": told, "features": [*features]}


def _quoted(*parts: str) -> str:
    """A path as a Python string literal."""
    return json.dumps("/".join(parts), ensure_ascii=False)


def _failures(statistics: Statistics) -> str:
    if not statistics.failed:
        return ""
    causes = ", ".join(f"{count:,} {cause}" for cause, count in sorted(statistics.failures.items()))
    failed, planned = f"{statistics.failed:,}", f"{statistics.pictures:,}"
    return f"{failed} of {planned} planned pictures could not be made ({causes}).\n"


def _again(statistics: Statistics) -> str:
    """What readers of the tars must know of pictures that were made again."""
    if not statistics.again:
        return ""
    pictures = counted(statistics.again, "picture was", "pictures were")
    return f"""
{pictures} made again. The earlier samples are still in the tars, because a published tar is never
rewritten: whoever reads `data/*.tar` meets both. The later one counts, and DuckDB says where it is:

{_LAST}"""


def _software(plan: Plan) -> str:
    return ", ".join(f"{package} {version}" for package, version in plan.software.items())


def _generations(plan: Plan) -> str:
    """Rows of a table."""
    return "".join(
        f"| generation {one.generation} | {_KINDS[one.kind]}: {counted(one.pictures, 'picture')}, "
        f"planned {one.created} |\n"
        for one in plan.later
    )


def _idle_columns(plan: Plan) -> str:
    if not plan.idle_columns:
        return ""
    listed = "\n".join(f"- {told}" for told in plan.idle_columns)
    return f"\nNot everything that the prompts asked for changed a picture:\n\n{listed}\n"


def _sizes(statistics: Statistics) -> str:
    return "\n".join(f"| {size} | {count:,} |" for size, count in sorted(statistics.sizes.items()))


def _times(statistics: Statistics) -> str:
    rows = []
    for stage, seconds in statistics.seconds.items():
        numbers = [f"{seconds[name]:.3f}" for name in ("mean", "p50", "p95")]
        rows.append(f"| {' | '.join([stage.removesuffix('_s').replace('_', ' '), *numbers])} |")
    return "\n".join(rows)


def _audit(run: Run, loss: Loss) -> str:
    """What the audit measured; nothing without an audit."""
    if not loss.pictures:
        return ""
    asked = run.job.audit
    unmeasured = counted(loss.unmeasured, "of them was not", "of them were not")
    told = f" {unmeasured} measured: `audit_error` says why." if loss.unmeasured else ""
    return f"""
## What the step cache costs

{counted(loss.pictures, "picture")}, chosen by a hash of their keys, were also made without the
step cache, at the same precision, and compared pixel by pixel before they were encoded.{told}
`metadata/*.parquet` has their PSNR and SSIM.
{_measured(loss, asked.min_psnr)}"""


def _scores(run: Run, scores: Scores) -> str:
    """What the scorer said; nothing without one."""
    if not scores.scored:
        return ""
    missing = counted(scores.unscored, "good picture has", "good pictures have")
    told = f" {missing} no score; the workers' logs say why." if scores.unscored else ""
    scorer = _cell(known_as(run.job.score.model))
    head = f"""
## Scores

{counted(scores.scored, "picture was", "pictures were")} scored by `{scorer}`, in fp32,
before they were encoded. None is left out because of its score.{told}
"""
    if scores.labels:
        rows = "\n".join(f"| {_cell(label)} | {count:,} |" for label, count in scores.frequent)
        return f"{head}\n| most probable label | pictures |\n|---|---|\n{rows}\n"
    return f"""{head}
| mean | lowest | highest |
|---|---|---|
| {scores.mean:.4g} | {scores.lowest:.4g} | {scores.highest:.4g} |
"""


def _cell(text: str) -> str:
    """A text of somebody else's in a table."""
    return one_line(text).replace("|", "\\|").replace("<", "&lt;")


def _measured(loss: Loss, floor: float | None) -> str:
    if not loss.measured:
        return ""
    below = f"{loss.below / loss.measured:.1%}" if floor is not None else ""
    at = f" below {floor:g} dB |" if floor is not None else ""
    return f"""
| | mean | worst |{at}
|---|---|---|{"---|" if at else ""}
| PSNR, dB | {loss.psnr_mean:.1f} | {loss.psnr_worst:.1f} |{f" {below} |" if at else ""}
| SSIM | {loss.ssim_mean:.4f} | {loss.ssim_worst:.4f} |{" |" if at else ""}
"""
