"""What this machine, or each node of a cluster, can do, and what to type where it cannot.

    show.py          findings for people, and as JSON lines
    nodes.py         every node of a site is asked by a job of its own
    question.py      what a node is asked, and how it answers
    links.py         two nodes exchange tensors, where they meet
    examine.py       all checks of one machine, in their order
    scheduler.py     SLURM's commands, controller and accounting
    models.py        a job's model, and the hub: reachable, or offline on purpose
    devices.py       the driver, the cards, and what the engine can do on them
    capabilities.py  precisions, attention, exchange between ranks, compiler: each tried
    cards.py         the cards that PyTorch sees, and those that are there or needed
    driver.py        the cards that NVIDIA's driver lists
    folders.py       the folder of runs, the compile cache
    machine.py       installed versions, host memory, open files
    trial.py         risky trials, each in a process of its own; the only room that imports torch
    child.py         another process, with a time limit, whatever becomes of it
    needs.py         what a job needs of a machine
    finding.py       what a check found: ok, warning, failed, with the remedy

A room imports only rooms below it.

A capability that is missing is told, and fails nothing, unless a job (`--job`) or the site needs
it. What is there and does not work is a warning, and a failure if it is needed. A driver that
crashes or hangs is a finding: whatever calls one runs in another process with a time limit.

Not covered: more than two nodes at once, disk quotas, and whether synced bytes outlive a power cut.
"""
