"""Several ranks as one engine: rank 0 *leads* and is an `Engine` to its worker; the others *follow* and do what it does.

Calls go one after another, so that all ranks enter the same exchanges in the same order: a decoding never overtakes a denoising. Pictures
travel as JSON; latents do not travel, every rank has them.

An exception while ranks compute together leaves them out of step, so it ends the replica (`bond.py`), out of memory too. Whoever works on
after that begins at the group that was in flight, and does what the verdict in its journal asks for.

Run over gloo on CPU; over NCCL written with care and untested.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch.distributed.distributed_c10d import PrefixStore

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.interface import Compilation, Denoised, Engine, Rendezvous, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import choose_mesh
from batchgen.engine.replica.control import ControlChannel
from batchgen.errors import DeviceFault
from batchgen.manifest import Picture
from batchgen.model import Checkpoint
from batchgen.settings import Job


def lead(job: Job, checkpoint: Checkpoint, work: Workload | None, seat: Rendezvous) -> Engine:
    """Rank 0's engine; of a replica of one rank, the plain one. See `open_engine`."""
    if seat.degree == 1:
        return build_engine(job, checkpoint, work=work)
    bond = ControlChannel(seat)
    with bond.together():
        return Leader(_build(job, checkpoint, work, bond), bond)


def follow(job: Job, checkpoint: Checkpoint, work: Workload | None, seat: Rendezvous) -> None:
    """Do what rank 0 does until it leaves. See `follow_engine`."""
    bond = ControlChannel(seat)
    with bond.together():
        _obey(_build(job, checkpoint, work, bond), bond)


def _build(job: Job, checkpoint: Checkpoint, work: Workload | None, bond: ControlChannel) -> Engine:
    """This rank's part of the engine, when all ranks are there."""
    seat = bond.seat
    layout = choose_mesh(seat.degree, job.parallel.ulysses, job.parallel.ring, checkpoint.heads)
    device = choose_device(job.engine, job.precision.linear)
    bond.meet()
    ranks = Ranks.connect(
        PrefixStore("ranks", bond.connect()),
        seat.rank,
        layout,
        device.kind,
        job.run.group_timeout_s,
    )
    return build_engine(job, checkpoint, ranks, work)


class Leader:
    """Rank 0's engine: has the followers do everything it does."""

    def __init__(self, engine: Engine, bond: ControlChannel) -> None:
        self.identity = engine.identity
        self._engine, self._bond = engine, bond
        self._pictures: dict[int, list[int]] = {}  # denoised, not yet decoded: their keys
        self._turn = (
            threading.Lock()
        )  # denoising and decoding come from two threads; their exchanges must not mix
        self._numbers = itertools.count()

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        """See `Engine.denoise`. The latents are numbered, so that a follower finds its own."""
        with self._turn, self._bond.together():
            number, keys = next(self._numbers), [picture.key for picture in group]
            self._bond.say(
                "denoise", number, [dataclasses.asdict(picture) for picture in group], pictures=keys
            )
            denoised = self._engine.denoise(group)
            self._pictures[number] = keys
        return dataclasses.replace(denoised, latents=(number, denoised.latents))

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """See `Engine.decode`; once for each group. Waits for a denoising to end: ranks do one thing at a time."""
        number, latents = denoised.latents
        with self._turn, self._bond.together():
            self._bond.say("decode", number, pictures=self._pictures.pop(number))
            return self._engine.decode(dataclasses.replace(denoised, latents=latents))

    @property
    def compilation(self) -> Compilation:
        """Of rank 0."""
        return self._engine.compilation

    def close(self) -> None:
        """Let the followers go. A replica that has failed is left as it is."""
        with self._turn, contextlib.suppress(DeviceFault), self._bond.together():
            self._bond.say("leave")
            self._bond.part()
            self._engine.close()


def _obey(engine: Engine, bond: ControlChannel) -> None:
    """Do what the leader does until it leaves."""
    waiting: dict[int, Denoised] = {}  # denoised, not yet decoded
    keys: dict[int, list[int]] = {}  # of their pictures
    while True:
        match bond.hear():
            case ["denoise", number, group]:
                bond.pictures = keys[number] = [picture["key"] for picture in group]
                waiting[number] = engine.denoise([Picture(**picture) for picture in group])
            case ["decode", number]:
                bond.pictures = keys.pop(number)
                engine.decode(waiting.pop(number))
            case ["leave"]:
                bond.part()
                engine.close()
                return
