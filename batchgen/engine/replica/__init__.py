"""Several processes that act as one engine: rank 0 leads, the others follow.

    replica.py      the leader and its followers
    control.py      the control channel: calls, failures, the watchdog
    rendezvous.py   how the ranks find each other

A room imports only rooms below it.
"""
