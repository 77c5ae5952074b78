"""Workers kept on a run as the supervisor would keep them, and killed at random moments after their first group has begun."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.protocol.scene import PATIENCE_S, Scene
from tests.protocol.trial import KILLED


@dataclass
class Life:
    """A worker of the storm."""

    pid: int
    groups: int  # to begin before it is killed
    begun: int = 0
    dies_at: float = 0.0
    left: bool = False


@dataclass
class Storm:
    """Workers that are replaced when they are killed, and when they leave although the run is not complete."""

    scene: Scene
    chance: random.Random
    workers: int
    kills: int = 0
    groups: Sequence[int] = (1,)  # a worker is killed after so many begins, chosen at random
    jitter_s: float = 0.0  # and up to so much later
    lie: float = 0.0
    killed: list[int] = field(default_factory=list)  # process ids
    lives: dict[int, Life] = field(default_factory=dict)  # by the worker's index
    _read: int = 0

    def rage(self) -> None:
        """Until the run is complete and every worker has left."""
        until = time.time() + PATIENCE_S
        self.lives = {index: self._born(index) for index in range(self.workers)}
        while self.lives:
            assert time.time() < until, f"the storm does not end\n{self.scene.output()}"
            self._look()
            for index in list(self.lives):
                self._decide(index)
            time.sleep(0.005)

    def _decide(self, index: int) -> None:
        """Whether a worker dies now, or is replaced."""
        life = self.lives[index]
        if (
            life.dies_at
            and time.time() >= life.dies_at
            and len(self.killed) < self.kills
            and not life.left
        ):
            os.kill(life.pid, signal.SIGKILL)
            if self.scene.drivers.wait(life.pid) == KILLED:
                self.killed.append(life.pid)
            self.lives[index] = self._born(index)
        elif life.left:
            code = self.scene.drivers.wait(life.pid)
            assert code == 0, f"a worker ended with {code}\n{self.scene.output()}"
            del self.lives[index]
            if not (self.scene.root / "index.json").exists():
                self.lives[index] = self._born(index)

    def _born(self, index: int) -> Life:
        spec: dict[str, Any] = {
            "index": index,
            "workers": self.workers,
            "lie": self.lie,
            "lie_seed": self.chance.randrange(1 << 30),
        }
        return Life(self.scene.start(**spec), self.chance.choice(self.groups))

    def _look(self) -> None:
        """What the workers have written since the last look."""
        if not self.scene.log.exists():
            return
        with self.scene.log.open("rb") as log:
            log.seek(self._read)
            whole, _, _ = log.read().rpartition(b"\n")
        self._read += len(whole) + 1 if whole else 0
        for event in map(json.loads, whole.splitlines()):
            life = next((life for life in self.lives.values() if life.pid == event["pid"]), None)
            if life and event["op"] == "begin":
                life.begun += 1
                if life.begun == life.groups:
                    life.dies_at = time.time() + self.chance.uniform(0, self.jitter_s)
            if life and event["op"] == "left":
                life.left = True
