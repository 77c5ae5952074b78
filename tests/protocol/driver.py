"""Forks workers from one warm process: `python -m tests.protocol.driver [torch]`.

A worker needs a second or more for its imports, and a test of kills needs hundreds of workers. This process imports once, starts no
thread, and forks a child for each request on stdin (JSON lines: a `Spec`, or {"wait": pid}); the child runs
`batchgen.worker.work` like any worker, with its disk operations watched.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.protocol import mutants
from tests.protocol.disk_watch import Point, Strike, Watch

UNPAINTABLE = "unpaintable"  # pictures whose prompt says so fail, by an exception of the engine


@dataclass(frozen=True)
class Spec:
    """One worker."""

    root: str
    log: str  # operations, begins, how it ended; outside the run
    index: int = 0
    workers: int = 1
    point: tuple[str, str, int] | None = None
    torn: bool = False
    signal: int = 9
    mutant: str = ""
    lie: float = 0.0  # how often it takes a living owner for dead
    lie_seed: int = 0


def be_worker(spec: Spec) -> None:
    """Run one worker to its end, or to its point."""
    from batchgen.engine import pattern
    from batchgen.run import owner
    from batchgen.run.run import open_run
    from batchgen.run.submissions import Submission
    from batchgen.shard import partial_shard
    from batchgen.worker import main as worker_main
    from batchgen.worker import signals
    from batchgen.worker.placement import Placement

    watch = Watch(
        Path(spec.root),
        Path(spec.log),
        Strike(Point(*spec.point), spec.torn, spec.signal) if spec.point else None,
    )
    watch.install()
    begin, life, denoise = (
        partial_shard.PartialShard.begin,
        owner.Owner.life,
        pattern.PatternEngine.denoise,
    )
    chance = random.Random(spec.lie_seed)

    def watched_begin(self, at, count):
        watch.note(op="begin", shard=self.shard, attempt=self.attempt, at=at, count=count)
        begin(self, at, count)

    def lying_life(self, queue=None):
        return (
            "dead" if self.pid != os.getpid() and chance.random() < spec.lie else life(self, queue)
        )

    def picky_denoise(self, group):
        if any(UNPAINTABLE in picture.prompt for picture in group):
            raise ValueError(UNPAINTABLE)
        return denoise(self, group)

    partial_shard.PartialShard.begin, owner.Owner.life, pattern.PatternEngine.denoise = (
        watched_begin,
        lying_life,
        picky_denoise,
    )
    if spec.mutant:
        mutants.MUTANTS[spec.mutant]()
    submission = Submission(
        number=1,
        at=0.0,
        command=("test",),
        host="test",
        workers=spec.workers,
        devices=(),
        deadline=None,
        steal=False,
        software={},
    )
    reason = "an exception"
    try:
        reason = worker_main.work(
            open_run(Path(spec.root)),
            Placement(submission.number, spec.index),
            submission,
            signals.Signals(),
        )
    finally:
        watch.note(op="left", reason=reason)


def fork_worker(spec: Spec) -> int:
    """The child's process id."""
    pid = os.fork()
    if pid:
        return pid
    output = os.open(spec.log + ".out", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code = 1
    try:
        be_worker(spec)
        code = 0
    except BaseException:  # noqa: BLE001 - nothing may return into the parent's loop
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def main() -> None:
    import batchgen.dataset.finalize
    import batchgen.worker.main  # noqa: F401

    with contextlib.suppress(
        ImportError
    ):  # pyarrow imports it where it is installed: half a second that not every child need spend
        import pandas as pd  # noqa: F401

    if "torch" in sys.argv:
        import batchgen.engine.families.flux  # noqa: F401

    threads = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")} - {
        "jemalloc_bg_thd"
    }  # Arrow's; minds forks
    assert len(threads) == 1, (
        f"{threads}: the locks that other threads hold would be held for ever in the forked workers"
    )
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = fork_worker(Spec(**request))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
