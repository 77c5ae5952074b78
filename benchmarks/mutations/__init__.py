"""Inputs with one mutation each, by kind; `benchmarks.mutated_inputs` runs them.

watched.py        a process that meets inputs, and what became of each
manifests.py      Parquet, CSV and JSON lines
manifest_judge.py whether an accepted manifest was read right
command_line.py   words of commands
loras.py          LoRA files
models.py         model folders
settings.py       job files and site profiles
runs.py           state files and published files of a run
workers.py        a worker in this process
hostile.py        hostile texts, values, bytes and files
trial.py          the commands that meet one input, and how their answers are judged
"""

# Kind → its share of the inputs.
KINDS = {"manifest": 8, "job": 4, "site": 2, "command line": 4, "model": 4, "LoRA": 3, "run": 3}
