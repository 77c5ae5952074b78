"""CUDA that is not there: real numbers on the CPU, under the rules of a card.

The engine's own code for CUDA runs, on tensors that say cuda:0. What a card would punish, or let
pass and be wrong, is told instead:

- tensors of two devices in one operation;
- memory that one stream reads or writes while another may still write or read it;
- memory that is given back while another stream may still use it.

Where the host waits for the device is counted, with the line of the program that waits.

    program.py  programs of this folder, each in a process of its own
    drive.py    builds and runs an engine, whole or with one fault, alone or as several ranks
    rehearse.py a row of benchmarks/gpu.py
    weigh.py    a model of true size without numbers: how much memory its tensors take
    load.py     what loading takes of the host
    launches.py how many kernels a compiled block launches, counted in its code
    lower.py    the code that Inductor writes for the card
    mutants.py  the faults
    launch_mutants.py  waste, for launches.py
    ranks.py    a process group of threads, under NCCL's rules
    card.py     torch.cuda, and what else of PyTorch must take part
    tensor.py   a tensor on cuda:0, whose numbers are a CPU tensor
    streams.py  streams, events and memory: who waits for whom
    guard.cpp   three lines without which a CPU build cannot index such a tensor

Not emulated: kernels' rounding, time, memory's size, compiled code, what a card's 8-bit products
ask of layouts, links between cards, copies to the host that do not wait. One clock stands for what
all threads of the host know. **That a program passes here says nothing of a real card but that
these faults are not in it.**
"""
