"""What people write: strict TOML files that become frozen objects.

    site.py         site profile → Site: how work is asked for on a SLURM cluster
    job.py          job file → Job: how pictures are made
    ready_jobs.py   job files that come with batchgen, by name
    audit.py        [audit]: pictures that are also made without the cache
    splits.py       [splits]: prompts that are kept from training
    score.py        [score]: a model that looks at every picture
    engine.py       the sections about how pictures are computed
    noise_levels.py   noise levels that a job states itself
    output.py       [output]: image files, and what they say of where they come from
    schedule.py     which steps the pictures of a class compute
    written.py      keys that were written; those that nothing reads are refused
    section.py      strict TOML tables; errors list what is accepted

A room imports only rooms below it.
"""

from batchgen.settings.audit import Audit, place
from batchgen.settings.engine import Cache, EngineSettings
from batchgen.settings.job import (
    MAX_SEED,
    MAX_SIDE_PX,
    Job,
    Lora,
    ManifestSettings,
    Model,
    Sampling,
    Shards,
    load_job,
    to_toml,
)
from batchgen.settings.output import Output
from batchgen.settings.schedule import ClassSchedule, PictureClass, repeated
from batchgen.settings.section import Section
from batchgen.settings.site import Site, load_site, seconds
from batchgen.settings.splits import Splits, prompt_place
from batchgen.settings.written import keys_read, unread

__all__ = [
    "MAX_SEED",
    "MAX_SIDE_PX",
    "Audit",
    "Cache",
    "ClassSchedule",
    "EngineSettings",
    "Job",
    "Lora",
    "ManifestSettings",
    "Model",
    "Output",
    "PictureClass",
    "Sampling",
    "Section",
    "Shards",
    "Site",
    "Splits",
    "keys_read",
    "load_job",
    "load_site",
    "place",
    "prompt_place",
    "repeated",
    "seconds",
    "to_toml",
    "unread",
]
