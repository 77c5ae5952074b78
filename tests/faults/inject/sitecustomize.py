"""Faults for the engines, without hooks in batchgen.

Python runs this file if its folder is on PYTHONPATH. A word in a prompt is a fault of that picture:

    SEGV, KILL, HANG    its worker dies while denoising it: of an invalid address, of SIGKILL, or
                        because it never ends
    KILLDECODE          its worker is killed while another group is being denoised
    RAISE, MEMORY       denoising it raises an exception
    NAN, BLACK          it turns out bad

The first two lines, RAISE, and this word also fail rank 1 of a replica, in the third step:

    HEAVY               a group of more than two with such a picture does not fit the device

An environment variable is a fault of the machine:

    FITS=2              groups of more than two pictures do not fit the device
    BLACK_WORKER=0      worker 0 makes only black pictures
    SLOW_WORKER=0       worker 0 takes most of a second more for every group
    FILE_BYTES=100000   a worker's files may not grow larger (RLIMIT_FSIZE, like a quota)
    NOTE_GROUPS=PATH    no fault: the first key of every group that begins is appended to the file
    NOTE_STRIKES=PATH   no fault: for every fault of rank 1, its job and the time are appended
"""

import ctypes
import importlib.util
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


def _words(group: Any) -> set[str]:
    return {word for picture in group for word in picture.prompt.split()}


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise RuntimeError("the picture does not want to be made")


def _take_all_memory() -> None:
    import numpy as np

    np.zeros(1 << 60, np.uint8)


WHILE_DENOISING: dict[str, Callable[[], object]] = {
    "SEGV": lambda: ctypes.string_at(0),
    "KILL": _kill,
    "HANG": lambda: time.sleep(3600),
    "RAISE": _raise,
    "MEMORY": _take_all_memory,
}
WORKER = {"index": ""}


def break_engine(module: ModuleType) -> None:
    engine = module.PatternEngine
    denoise, decode = engine.denoise, engine.decode

    def faulty_denoise(self: Any, group: Any, **how: Any) -> Any:
        from batchgen.errors import OutOfMemory

        if notes := os.environ.get("NOTE_GROUPS"):
            with open(notes, "a") as file:  # noqa: PTH123 - pathlib takes time to import
                file.write(f"{group[0].key}\n")
        if len(group) > int(os.environ.get("FITS", "1000")):
            raise OutOfMemory(f"{len(group)} pictures do not fit")
        for word in WHILE_DENOISING.keys() & _words(group):
            WHILE_DENOISING[word]()
        if os.environ.get("SLOW_WORKER") == WORKER["index"] and len(group) > 1:
            time.sleep(0.7)
        finite = tuple("NAN" not in _words([picture]) for picture in group)
        return replace(denoise(self, group, **how), finite=finite)

    def faulty_decode(self: Any, denoised: Any) -> Any:
        if "KILLDECODE" in _words(denoised.latents):
            time.sleep(0.2)
            _kill()
        pixels, seconds = decode(self, denoised)
        for picture, card in zip(denoised.latents, pixels, strict=True):
            if "BLACK" in _words([picture]) or os.environ.get("BLACK_WORKER") == WORKER["index"]:
                card[:] = 0
        return pixels, seconds

    engine.denoise, engine.decode = faulty_denoise, faulty_decode


def break_second_rank(module: ModuleType) -> None:
    engine = module.TorchEngine
    denoise, forward = engine._denoise, engine._forward
    at_hand: list[Any] = []

    def noted_denoise(self: Any, group: Any, **how: Any) -> Any:
        at_hand[:] = group
        return denoise(self, group, **how)

    def faulty_forward(self: Any, *words: Any) -> Any:
        made = forward(self, *words)
        velocity = made.velocity

        def faulty_velocity(latents: Any, step: int, *words: Any) -> Any:
            if self.ranks.rank == 1 and step == 2:
                faults = _words(at_hand)
                heavy = "HEAVY" in faults and len(at_hand) > 2
                strike(set(WHILE_DENOISING) & faults, heavy=heavy)
            return velocity(latents, step, *words)

        made.velocity = faulty_velocity
        return made

    def strike(faults: set[str], heavy: bool) -> None:
        if (faults or heavy) and (notes := os.environ.get("NOTE_STRIKES")):
            with open(notes, "a") as file:  # noqa: PTH123 - as above
                file.write(f"{os.environ['SUBMITIT_LOCAL_JOB_ID']} {time.time()}\n")
        if heavy:
            raise module.torch.OutOfMemoryError(f"{len(at_hand)} pictures do not fit")
        for word in faults:
            WHILE_DENOISING[word]()

    engine._denoise, engine._forward = noted_denoise, faulty_forward


def remember_worker(module: ModuleType) -> None:
    name = module.device_name

    def device_name(worker: int) -> Any:
        WORKER["index"] = str(worker)
        if limit := os.environ.get("FILE_BYTES"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
        return name(worker)

    module.device_name = device_name


# libfaketime shifts the moment until which Python's own sleep waits.
if "libfaketime" in os.environ.get("LD_PRELOAD", ""):
    time.sleep = lambda seconds: select.select((), (), (), seconds)

AFTER_IMPORT = {
    "batchgen.engine.pattern": break_engine,
    "batchgen.engine.torch_engine": break_second_rank,
    "batchgen.worker.sick_devices": remember_worker,
}


class Injector:
    """Finds a module as always, and changes it once it is executed."""

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        change = AFTER_IMPORT.pop(name, None)
        spec = importlib.util.find_spec(name) if change else None
        if spec and spec.loader and change:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                change(module)

            spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Injector())
