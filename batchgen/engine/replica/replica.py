"""Several ranks as one engine: rank 0 *leads* and is its worker's `Engine`; the others *follow*.

Followers do every call of the leader. Calls go one after another, so that all ranks enter the same
exchanges in the same order: a decoding never overtakes a denoising. Pictures travel as JSON.
Latents do not travel, because every rank has them.

An exception while ranks compute together leaves them out of step. It therefore ends the replica
(control.py), out of memory too. The worker's next life resumes at the group that was in flight, and
obeys the verdict in its journal.

Tested over gloo on CPUs. NCCL is untested.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from batchgen.engine.build import build_engine
from batchgen.engine.device import choose_device
from batchgen.engine.interface import Compilation, Denoised, Engine, Rendezvous, Scored, Workload
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import choose_mesh
from batchgen.engine.replica.control import ControlChannel
from batchgen.engine.replica.process_group_store import ProcessGroupStore
from batchgen.engine.replica.rendezvous import keep_to_this_machine, wait_for_all
from batchgen.errors import DeviceFault
from batchgen.manifest import Picture
from batchgen.model import Checkpoint
from batchgen.settings import Job


def lead(job: Job, checkpoint: Checkpoint, work: Workload | None, rendezvous: Rendezvous) -> Engine:
    """Rank 0's engine. If it is the only rank, that is the plain engine. See `open_engine`."""
    if rendezvous.degree == 1:
        return build_engine(job, checkpoint, work=work)
    channel = ControlChannel(rendezvous)
    with channel.together():
        return Leader(_build(job, checkpoint, work, channel), channel)


def follow(job: Job, checkpoint: Checkpoint, work: Workload | None, rendezvous: Rendezvous) -> None:
    """Do what rank 0 does until it leaves. See `follow_engine`."""
    channel = ControlChannel(rendezvous)
    with channel.together():
        _follow_calls(_build(job, checkpoint, work, channel), channel)


def _build(
    job: Job, checkpoint: Checkpoint, work: Workload | None, channel: ControlChannel
) -> Engine:
    """This rank's part of the engine, once all ranks have come."""
    rendezvous, store = channel.rendezvous, channel.store
    parallel, timeout_s = job.parallel, job.run.group_timeout_s
    mesh = choose_mesh(
        rendezvous.degree // parallel.halves,
        parallel.ulysses,
        parallel.ring,
        checkpoint.heads,
        parallel.halves,
    )
    device = choose_device(job.engine, job.precision.linear).kind
    wait_for_all(store, rendezvous)
    if rendezvous.one_machine:
        keep_to_this_machine()
    own = ProcessGroupStore(store.another())
    ranks = Ranks.connect(own, rendezvous.rank, mesh, device, timeout_s)
    return build_engine(job, checkpoint, ranks, work)


class Leader:
    """Rank 0's engine: the followers do everything it does."""

    def __init__(self, engine: Engine, channel: ControlChannel) -> None:
        self.identity = engine.identity
        self._engine, self._channel = engine, channel
        # By number of the group: denoised and not yet decoded, the keys of whom to blame.
        self._pictures: dict[int, list[int]] = {}
        self._numbers = itertools.count()
        # Two threads call, one to denoise and one to decode. Their exchanges must not mix.
        self._turn = threading.Lock()

    def denoise(self, group: Sequence[Picture], *, cached: bool = True) -> Denoised:
        """See `Engine.denoise`. The latents are numbered, so that a follower finds its own."""
        with self._turn, self._channel.together():
            number, keys = next(self._numbers), _to_blame(group, cached=cached)
            rows = [dataclasses.asdict(picture) for picture in group]
            self._channel.send("denoise", number, rows, cached, pictures=keys)
            denoised = self._engine.denoise(group, cached=cached)
            self._pictures[number] = keys
        return dataclasses.replace(denoised, latents=(number, denoised.latents))

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        """See `Engine.decode`. Once for each group; waits while another group is denoised."""
        number, latents = denoised.latents
        with self._turn, self._channel.together():
            self._channel.send("decode", number, pictures=self._pictures.pop(number))
            return self._engine.decode(dataclasses.replace(denoised, latents=latents))

    def score(
        self, pixels: Sequence[npt.NDArray[np.uint8]], prompts: Sequence[str]
    ) -> list[Scored]:
        """See `Engine.score`. Rank 0 does it alone, and exchanges nothing."""
        return self._engine.score(pixels, prompts)

    @property
    def compilation(self) -> Compilation:
        """Of rank 0."""
        return self._engine.compilation

    def close(self) -> None:
        """Let the followers go. A replica that has failed is left as it is."""
        with self._turn, contextlib.suppress(DeviceFault), self._channel.together():
            self._channel.send("leave")
            self._channel.close()
            self._engine.close()


def _to_blame(group: Sequence[Picture], *, cached: bool) -> list[int]:
    """Keys of the pictures that a failure is about. An audit's says nothing about its pictures."""
    return [picture.key for picture in group] if cached else []


def _follow_calls(engine: Engine, channel: ControlChannel) -> None:
    """Do what the leader does until it leaves."""
    # By number of the group: denoised and not yet decoded, and the keys of whom to blame.
    waiting: dict[int, tuple[Denoised, list[int]]] = {}
    while True:
        match channel.receive():
            case ["denoise", number, rows, cached]:
                group = [Picture(**row) for row in rows]
                channel.pictures = keys = _to_blame(group, cached=cached)
                waiting[number] = engine.denoise(group, cached=cached), keys
            case ["decode", number]:
                denoised, channel.pictures = waiting.pop(number)
                engine.decode(denoised)
            case ["leave"]:
                channel.close()
                engine.close()
                return
