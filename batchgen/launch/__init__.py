"""Starting, restarting and stopping workers. Workers and launchers meet only through files of the run.

    supervisor.py     keeps the workers of this machine going
    slurm_array.py    workers as SLURM job arrays, through submitit
    batch_script.py   what stands in the batch script
    elements.py       workers laid out on a site's nodes, or why they do not fit
    requeue.py        does an array element go on? Asked by its batch script
    node_check.py     does this node see the run? Asked by its batch script
    local.py          one worker on this machine, through submitit
    cancel.py         ask a run to stop, or end it

A room imports only rooms below it.
"""
