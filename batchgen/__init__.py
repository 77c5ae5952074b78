"""batchgen: a Parquet table of prompts in, a training dataset of pictures out.

From Python: `run = batchgen.submit("prompts.parquet", "flux-dev")`; see help(batchgen.submit).
What is refused raises a `batchgen.BatchgenError`. On the command line: `batchgen -h`.

The map. Wings stand in the order of the data, read from below; a wing imports only what stands
under it (tests/test_layers.py). A section of the job file names its wing or room: `[cache]` is
engine/cache/, and `policy = "replay"` is engine/cache/replay.py.

    __main__.py    `python -m batchgen`
    cli/           the verbs: parse, call, print
    api.py         the same from Python: `batchgen.submit(...)`
    run_handle.py  a run from Python: `run.status()`, `run.records()`, `run.dataset()`
    operations.py  what both do
    generations.py   what a complete run goes on with: failures, appended rows, a trial's rest
    doctor/        what this machine, or each node of a cluster, can do
    calibration/   a cache setting for a manifest, tried on a sample of it
    view/          what people look at: status, progress, logs
    arrive.py      launch/node_check.py by its old name, until 0.3
    requeue.py     launch/requeue.py, likewise
    supervisor.py  launch/supervisor.py, likewise
    submit.py      names in pickles of 0.1, likewise
    launch/        starting, restarting and stopping workers, here and in SLURM
    worker/        one process: claims shards, renders groups, writes samples
    dataset/       what readers get: card, index, statistics; verification
    shard/         the life of a shard: claim, journal, commit, publish
    run/           the run directory, and who was sent to it
    planning/      manifest and job → plan; estimates and refusals. No torch
    engine/        prompts → pixels; knows nothing of shards, tar files or SLURM
    manifest/      rows of a table → pictures to make
    model/         a model folder, known without torch
    slurm/         what SLURM says
    settings/      what people write: job files and site profiles
    remote.py      places that a URL names, through fsspec
    units.py       42 s, 3.4 h, 1.2 GB
    fidelity.py    how far one picture is from another: PSNR, SSIM
    shortage.py    what has run out when nothing more can be written
    durable_folder.py   does a folder do what durable.py rests on? Tried in it
    durable.py     the few file operations that correctness rests on
    checked_json.py   JSON that is believed only if its types and its checksum hold
    regular_file.py   files that are read whole, and so must have an end
    process.py     a process, told apart from every other, and whether it lives
    errors.py      the one tree of exceptions
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from batchgen.api import extend, remake, resume, submit
    from batchgen.dataset.loader import dataset
    from batchgen.errors import BatchgenError
    from batchgen.run_handle import RunHandle, attach
else:  # which would hide from mypy that a name is misspelt
    _ROOMS = {
        **dict.fromkeys(["extend", "remake", "resume", "submit"], "batchgen.api"),
        **dict.fromkeys(["RunHandle", "attach"], "batchgen.run_handle"),
        "BatchgenError": "batchgen.errors",
        "dataset": "batchgen.dataset",  # which is a function, too
    }

    def __getattr__(name: str) -> Any:
        """Public names are imported when they are used: `import batchgen` takes no time."""
        if name not in _ROOMS:
            raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
        module = import_module(_ROOMS[name])
        return getattr(module, name, module)

    def __dir__() -> list[str]:
        """What a notebook offers after `batchgen.`."""
        return __all__


__all__ = [
    "BatchgenError",
    "RunHandle",
    "__version__",
    "attach",
    "dataset",
    "extend",
    "remake",
    "resume",
    "submit",
]
