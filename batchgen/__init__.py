"""batchgen: a Parquet table of prompts in, a training dataset of pictures out.

The modules in the order of the data; each imports only what stands before it (tests/test_layers.py):

    errors.py      the one tree of exceptions
    job.py         TOML job file → frozen, strict Job
    checkpoint.py  a model folder and what identifies it
    manifest.py    Parquet (CSV, JSONL) rows → Picture; the column contract; streaming validation
    plan.py        Job + manifest → shards and groups; fingerprint; estimate
    records.py     the per-picture record and its Arrow schema
    durable.py     the few file operations correctness rests on: append, sync, link, publish
    store.py       the run directory: its names, what is done, commit and roll-forward, the stop flag
    partial.py     a shard being written: samples, records, journal; resuming them
    claims.py      who works on which shard, and who is dead
    engine/        pixels; knows nothing of shards, tar or SLURM
    writer.py      pictures → encoded images → tar members
    group.py       one group through the engine: retries, halving, one by one
    worker.py      one process: build the engine once, work through shards
    finalize.py    the finished run: dataset card, wids index, contact sheet, statistics
    status.py      what is done, who lives, what to do next
    verify.py      counts, hashes and keys, recounted from the files
    submit.py      the only file that imports submitit
    cli.py         verbs; nothing else
"""

__version__ = "0.1.0"
