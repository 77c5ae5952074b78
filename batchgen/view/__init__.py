"""What people look at: the state of a run, live progress, logs.

    show_plan.py     what a plan says
    show_status.py   the state of a run, or of all runs of a folder
    show_logs.py     what workers printed; failed pictures
    show_checks.py   what `verify` found
    show_push.py     what `push` has sent
    show_records.py  published records, and what their columns mean
    watch.py         live progress
    show_live.py     one look at a run that goes on
    status.py        what is done, who lives, what to type next
    last_words.py    why workers are gone
    roster.py        who works on a run, here and in SLURM
    console.py       what is printed cannot command the terminal

A room imports only rooms below it.
"""
