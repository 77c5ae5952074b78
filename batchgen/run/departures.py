"""batchgen.run.departures."""

from __future__ import annotations

DEADLINE = "deadline"  # why a worker left whose time was over

RELEASED = {"SIGUSR2", "SIGTERM", "SIGINT", DEADLINE}  # why workers leave who could have gone on
ALL_DONE = "all shards are done"
NOTHING_FREE = "nothing free: others work on the rest"  # why workers leave, where others act on it
SICK = "SickDevice"
