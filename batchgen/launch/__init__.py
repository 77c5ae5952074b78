"""Starting, restarting and stopping workers. Launchers and workers share only files of the run.

    start.py          brings workers to a run, here or in SLURM
    supervisor.py     starts the workers of this machine, and a new one for one that dies
    node_jobs.py      a short job on each of some nodes, for what is no run
    slurm_array.py    workers as SLURM job arrays
    batch_script.py   the batch script of a job array
    elements.py       workers laid out on a site's nodes, or why they do not fit
    srun_options.py   options of srun that cannot work are refused
    requeue.py        does an array element go on? Asked at the end of its batch script
    node_check.py     does this node see the run? Asked at the start of the batch script
    local.py          one worker on this machine
    become_worker.py  a started process becomes a worker, or says why it cannot
    cancel.py         ask a run to stop, or end its workers

A room imports only rooms below it.
"""
