"""Several processes that act as one engine: rank 0 leads, the others follow.

    replica.py               the leader and its followers
    control.py               the control channel: calls, failures, the watchdog
    rendezvous.py            how the ranks find each other
    process_group_store.py   the store as PyTorch wants one
    store.py                 a key-value store for those who know its secret
    connection.py            messages between two processes that know one secret

A room imports only rooms below it.
"""
