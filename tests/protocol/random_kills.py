"""Workers that are killed at random moments, and replaced as a supervisor would replace them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.protocol.run_copy import PATIENCE_S, RunCopy
from tests.protocol.trial import KILLED


@dataclass
class Victim:
    """A worker that may be killed."""

    pid: int
    # How many groups it begins before it is killed, and how many it has begun.
    groups: int
    begun: int = 0
    # Seconds since the epoch; 0 while it has not begun enough groups.
    dies_at: float = 0.0
    left: bool = False


@dataclass
class RandomKills:
    """Keep workers on a run until it is complete, and kill some of them.

    A worker that is killed is replaced; so is one that leaves although the run is not complete.
    """

    copy: RunCopy
    chance: random.Random
    workers: int
    kills: int = 0
    # A worker is killed after one of these numbers of begun groups, chosen at random, …
    groups: Sequence[int] = (1,)
    # … and up to so much later.
    jitter_s: float = 0.0
    misjudge: float = 0.0
    # Process ids.
    killed: list[int] = field(default_factory=list)
    # By the worker's index.
    victims: dict[int, Victim] = field(default_factory=dict)
    _read: int = 0

    def run(self) -> None:
        """Return when the run is complete and every worker has left."""
        until = time.time() + PATIENCE_S
        self.victims = {index: self._start(index) for index in range(self.workers)}
        while self.victims:
            assert time.time() < until, f"the run does not end\n{self.copy.output()}"
            self._read_log()
            for index in list(self.victims):
                self._kill_or_replace(index)
            time.sleep(0.005)

    def _kill_or_replace(self, index: int) -> None:
        victim = self.victims[index]
        due = 0 < victim.dies_at <= time.time() and len(self.killed) < self.kills
        if due and not victim.left:
            os.kill(victim.pid, signal.SIGKILL)
            if self.copy.drivers.wait(victim.pid) == KILLED:
                self.killed.append(victim.pid)
            self.victims[index] = self._start(index)
        elif victim.left:
            code = self.copy.drivers.wait(victim.pid)
            assert code == 0, f"a worker ended with {code}\n{self.copy.output()}"
            del self.victims[index]
            if not (self.copy.root / "index.json").exists():
                self.victims[index] = self._start(index)

    def _start(self, index: int) -> Victim:
        seed = self.chance.randrange(1 << 30)
        pid = self.copy.start(
            index=index, workers=self.workers, misjudge=self.misjudge, chance_seed=seed
        )
        return Victim(pid, self.chance.choice(self.groups))

    def _read_log(self) -> None:
        """Read what the workers have written since the last time."""
        if not self.copy.log.exists():
            return
        with self.copy.log.open("rb") as log:
            log.seek(self._read)
            whole, _, _ = log.read().rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        by_pid = {victim.pid: victim for victim in self.victims.values()}
        for event in map(json.loads, whole.splitlines()):
            victim = by_pid.get(event["pid"])
            if victim and event["op"] == "begin":
                victim.begun += 1
                if victim.begun == victim.groups:
                    victim.dies_at = time.time() + self.chance.uniform(0, self.jitter_s)
            if victim and event["op"] == "left":
                victim.left = True
