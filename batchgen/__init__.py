"""batchgen: a Parquet table of prompts in, a training dataset of pictures out.

The modules in the order of the data; each imports only what stands before it (tests/test_layers.py):

    errors.py       the one tree of exceptions
    job.py          TOML job file → frozen, strict Job
    models/         the embedded tiny model, and the script that trained it
    weights.py      weight files: whole, safetensors, and a digest
    checkpoint.py   a model folder and what identifies it
    manifest/       Parquet (CSV, JSONL) rows → Picture; the column contract; streaming validation
    plan.py         Job + manifest → shards and groups; fingerprint; estimate
    records.py      the per-picture record and its Arrow schema
    durable.py      the few file operations correctness rests on
    store.py        the run directory: its names, what is done, commit and roll-forward, the stop flag
    partial.py      a shard being written: samples, records, journal; resuming them
    claims.py       who works on which shard, and who is dead
    tasks.py        what a shard's groups become after deaths
    tally.py        what is done, counted from the files
    run.py          store, plan and job together; created once, checked at every opening
    submissions.py  what was submitted, and the processes that belong to it
    engine/         pixels; knows nothing of shards, tar or SLURM
    group.py        one group through the engine: together, halved, one by one
    writer.py       pictures → encoded images → tar members
    pipeline.py     a shard's tasks through renderer and writer, two groups in flight
    publish.py      a finished partial → its commit
    device.py       a device under suspicion
    statistics.py   numbers of a finished run, from its records
    card.py         the dataset card
    contact.py      the contact sheet
    finalize.py     the finished run: statistics, contact sheet, card, wids index
    worker.py       one process: build the engine once, work through shards
    status.py       what is done, who lives, what to do next
    verify.py       counts, hashes and keys, recounted from the files
    submit.py       starts workers through submitit and keeps them going
    watch.py        live progress, and what Ctrl-C does to it
    show.py         what the verbs print
    cli.py          the verbs
"""

__version__ = "0.1.0"
