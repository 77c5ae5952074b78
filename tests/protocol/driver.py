"""Forks workers from one warm process: `python -m tests.protocol.driver [torch]`.

A worker needs a second or more for its imports, and a test of kills needs hundreds of workers.
This process imports once, starts no thread, and forks a child for each request on stdin. A
request is a JSON line: a `Spec`, or {"wait": pid}. The child runs `batchgen.worker.main.work`
like any worker, and its disk operations are watched.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import random
import sys
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.protocol import commands, mutants
from tests.protocol.disk_watch import Interruption, Point, Watch

# Pictures with this prompt fail by an exception of the engine.
UNPAINTABLE = "unpaintable"
# Nothing depends on it here.
_OF_A_SUBMISSION: dict[str, Any] = {
    "at": 0.0,
    "command": ("test",),
    "host": "test",
    "devices": (),
    "deadline": None,
    "steal": False,
    "software": {},
}


@dataclass(frozen=True)
class Spec:
    """One worker."""

    root: str
    # A file outside the run: disk operations, groups that begin, how the worker ended.
    log: str
    index: int = 0
    workers: int = 1
    point: tuple[str, str, int] | None = None
    torn: bool = False
    signal: int = 9
    mutant: str = ""
    # How often the worker takes a living owner for dead; the first that it meets it always does.
    misjudge: float = 0.0
    chance_seed: int = 0
    # What a person types first, which plans a generation (commands.py); () is a plain `resume`.
    command: tuple[str, ...] = ()
    # No picture is unpaintable any more.
    mended: bool = False
    # What people would see is logged, before the command and when the worker has left.
    look: bool = False
    # Shards in one folder of `.batchgen`.
    bucket: int = 1000


def be_worker(spec: Spec) -> None:
    """Run one worker to its end, or to its point."""
    from batchgen.errors import BatchgenError
    from batchgen.run import Submission, directory
    from batchgen.worker import main as worker_main
    from batchgen.worker.placement import Placement
    from batchgen.worker.signals import Signals

    interruption = None
    if spec.point:
        interruption = Interruption(Point(*spec.point), spec.torn, spec.signal)
    watch = Watch(Path(spec.root), Path(spec.log), interruption)
    watch.install()
    _patch(spec, watch)
    directory.BUCKET = spec.bucket
    if spec.mutant:
        (mutants.MUTANTS | mutants.OF_GENERATIONS)[spec.mutant]()
    submission = Submission(number=1, workers=spec.workers, **_OF_A_SUBMISSION)
    placement = Placement(submission.number, spec.index)
    reason = "an exception"
    root = Path(spec.root)
    try:
        if spec.look:
            watch.note(op="looked", **commands.look(root))
        run = commands.give(root, spec.command)
        reason = str(worker_main.work(run, placement, submission, Signals()))
    except BatchgenError as error:
        reason = f"refused: {error}"
        raise
    finally:
        watch.note(op="left", reason=reason)
    if spec.look:
        watch.note(op="looked", **commands.look(root), problems=commands.problems(root))


def _patch(spec: Spec, watch: Watch) -> None:
    """Log every group that begins, misjudge owners, and fail unpaintable pictures."""
    from batchgen.engine.pattern import PatternEngine
    from batchgen.run import Owner
    from batchgen.shard import PartialShard

    begin, life, denoise = PartialShard.begin, Owner.life, PatternEngine.denoise
    chance = random.Random(spec.chance_seed)
    # The first answer is wrong for certain, so that each run shows a stolen shard.
    wrong_answers = itertools.chain([True], iter(lambda: chance.random() < spec.misjudge, None))

    def watched_begin(self, at, count):
        watch.note(op="begin", shard=self.shard, attempt=self.attempt, at=at, count=count)
        begin(self, at, count)

    def misjudging_life(self, queue=None):
        wrong = spec.misjudge > 0 and self.pid != os.getpid() and next(wrong_answers)
        return "dead" if wrong else life(self, queue)

    def picky_denoise(self, group, *, cached=True):
        if not spec.mended and any(UNPAINTABLE in picture.prompt for picture in group):
            raise ValueError(UNPAINTABLE)
        # Without the cache a card has other colours: an audit has something to measure.
        return denoise(self, group if cached else [replace(one, steps=99) for one in group])

    mutants.replace(PartialShard, "begin", watched_begin)
    mutants.replace(Owner, "life", misjudging_life)
    mutants.replace(PatternEngine, "denoise", picky_denoise)


def fork_worker(spec: Spec) -> int:
    """Start a worker; its process id."""
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


def import_what_workers_need() -> None:
    """Import and read once what each worker would need after its fork."""
    importlib.import_module("batchgen.worker.main")
    importlib.import_module("batchgen.view.roster")
    page = importlib.import_module("batchgen.dataset.report.page")
    for letters in page.LIMITS:
        page._template(letters)
    importlib.import_module("PIL.Image").init()
    with contextlib.suppress(ImportError):  # pyarrow imports it where it is installed
        importlib.import_module("pandas")
    if "torch" in sys.argv:
        importlib.import_module("batchgen.engine.replica.replica")
        importlib.import_module("batchgen.engine.families.flux")
    mutants.read_names()


def main() -> None:
    import_what_workers_need()
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    threads = names - {"jemalloc_bg_thd"}  # Arrow's, which survives forks
    assert len(threads) == 1, f"{threads}: locks that threads hold stay locked in forked workers"
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
