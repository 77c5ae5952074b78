"""batchgen: a Parquet table of prompts in, a training dataset of pictures out.

The modules in the order of the data; each imports only what stands before it (tests/test_layers.py):

    errors.py       the one tree of exceptions
    process.py      a process, and whether it lives
    job.py          TOML job file → frozen, strict Job
    site.py         TOML site profile → frozen, strict Site: how work is asked for on a SLURM cluster
    hardware.py     what is known of the devices that will compute
    slurm.py        what SLURM says, and the job this process is in
    orders.py       what a worker was asked to do from outside: signals, the last moment
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
    tasks.py        what a shard's groups become after deaths and verdicts
    tally.py        what is done, counted from the files
    run.py          store, plan and job together; created once, checked at every opening
    shard.py        a shard's pictures, read from the manifest
    submissions.py  what was submitted, and the processes that belong to it
    arrive.py       whether a node sees the run it is to work on
    requeue.py      whether an element of a SLURM array goes on in a new allocation
    engine/         pixels; knows nothing of shards, tar or SLURM
    memory.py       how much memory of its device a rank takes: an estimate
    fit.py          whether a job fits into the memory of its devices, and what would make it
    feasible.py     what a job asks for and cannot have, said before anything starts
    group.py        one group through the engine: together, halved, one by one
    writer.py       pictures → encoded images → tar members
    pipeline.py     a shard's tasks through renderer and writer, two groups in flight
    publish.py      a finished partial → its commit
    device.py       a device under suspicion
    statistics.py   numbers of a finished run, from its records
    card.py         the dataset card
    contact.py      the contact sheet
    finalize.py     the finished run: statistics, contact sheet, card, wids index
    seat.py         which worker of a submission a process is, and which of its ranks
    worker.py       one process: build the engine once, work through shards
    crew.py         who works on a run, here and in SLURM
    last_words.py   why workers left, died, or never came
    status.py       what is done, who lives, what to do next
    verify.py       counts, hashes and keys, recounted from the files
    submit.py       starts workers through submitit: on this machine, or as a SLURM array
    supervisor.py   keeps the workers of this machine going
    watch.py        live progress, and what Ctrl-C does to it
    show.py         what the verbs print
    cli.py          the verbs
"""

__version__ = "0.1.0"
