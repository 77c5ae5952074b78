"""One worker: it builds its engine once and works through shards until nothing is free.

    main.py            a process becomes a worker, or one of a worker's other ranks
    worker.py          claim a shard, make its groups, publish it
    limits.py          deadline, failure budget, groups that hang
    watchdog.py        a process that hangs says at what, and ends
    pipeline.py        one group is denoised while the one before is decoded and written
    in_flight.py       the groups being made, and the verdict on them
    renderer.py        a group through the engine: together, halved, or one by one
    scoring.py         [score]: what a scorer says about the pictures
    audit.py           [audit]: chosen pictures once more without the cache, and compared
    xmp.py             that a model made a picture, as XMP in it
    samples.py         pixels → encoded image → tar members
    perceptual_hash.py   64 bits in which near duplicates hardly differ
    sick_devices.py    devices that spoil pictures
    lasting_errors.py  errors of the start that no restart mends
    placement.py       which worker, and which of its ranks, a process is
    signals.py         SIGTERM, SIGUSR2, and the last moment of a SLURM job

A room imports only rooms below it.
"""
