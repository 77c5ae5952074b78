"""One worker process: it builds the engine once and works through shards until nothing is free.

    main.py           a process becomes a worker, or one of its ranks
    worker.py         claim a shard, make its groups, publish it
    pipeline.py       one group is denoised while the one before is decoded and written
    renderer.py       a group through the engine: together, halved, or one by one
    samples.py        pixels → encoded image → tar members
    sick_devices.py   devices that spoil pictures
    placement.py      which worker, and which of its ranks, a process is
    signals.py        SIGTERM, SIGUSR2, and the last moment of a SLURM job

A room imports only rooms below it.
"""
