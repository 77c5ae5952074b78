"""A shard's tasks through the renderer and into its partial, two groups in flight.

main thread       denoise k+1 ─────────────┐
writing thread    decode k, encode, write ─┘ then k+1 follows
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from batchgen.engine.interface import Verdict
from batchgen.settings import Output
from batchgen.shard import PartialShard, Record, Task, identity_of
from batchgen.worker.renderer import Made, Part, Renderer
from batchgen.worker.samples import encode_image, sample

MAX_ENCODERS = 8
IN_FLIGHT = 2  # groups


@dataclass(frozen=True, slots=True)
class Origin:
    """Who makes the records: the same for all of a process."""

    host: str
    worker: int
    generation: int


@dataclass
class Pipeline:
    """Owns the threads that decode, encode and write."""

    renderer: Renderer
    output: Output
    origin: Origin
    _in_flight: deque[tuple[PartialShard, Task]] = field(
        default_factory=lambda: deque(maxlen=IN_FLIGHT)
    )
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "write"))
    _encoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(min(MAX_ENCODERS, os.cpu_count() or 1), "encode")
    )

    def run(
        self, partial: PartialShard, tasks: Iterable[Task], may_begin: Callable[[Task], bool]
    ) -> Iterator[list[Made]]:
        """Make the tasks in order until one may not begin; yields each group when it is safely written.

        However it ends, by an exception too, what was already denoised is written before it returns.
        """
        pending: Future[list[Made]] | None = None
        try:
            for task in tasks:
                if pending and task.careful:
                    done, pending = pending, None
                    yield done.result()
                if not may_begin(task):
                    break
                begun = time.time()
                partial.begin(task.at, len(task.pictures))
                self._in_flight.append((partial, task))
                parts = self._denoise(task)
                before, pending = (
                    pending,
                    self._writer.submit(
                        self._finish, partial, parts, begun, time.perf_counter(), pending
                    ),
                )
                if before:
                    yield before.result()
            if pending:
                last, pending = pending, None
                yield last.result()
        finally:
            if pending:
                wait([pending])

    def judge(self, verdict: Verdict) -> None:
        """Before this process ends: write down which pictures in flight are the reason. Any thread may."""
        for partial, task in list(self._in_flight):
            keys, first = [picture.key for picture in task.pictures], task.pictures[0]
            if verdict.pictures[0] in keys:
                at = task.at + keys.index(verdict.pictures[0])
                partial.judge(
                    at,
                    len(verdict.pictures),
                    (first.width, first.height),
                    verdict.cause,
                    verdict.why,
                )

    def close(self) -> None:
        """Let the threads end."""
        self._writer.shutdown()
        self._encoders.shutdown()

    def _denoise(self, task: Task) -> list[Part]:
        if task.cause:
            return [Part(task.pictures, None, task.path, task.cause, task.error)]
        return self.renderer.denoise(task.pictures, task.path)

    def _finish(
        self,
        partial: PartialShard,
        parts: Sequence[Part],
        begun: float,
        denoised: float,
        before: Future[list[Made]] | None,
    ) -> list[Made]:
        if (
            before and before.exception()
        ):  # the group before was not written: writing this one would leave a hole
            return []
        queue_s = time.perf_counter() - denoised
        made = [one for part in parts for one in self.renderer.decode(part)]
        encoded = list(self._encoders.map(self._encode, made))
        total_s = time.time() - begun
        samples, records = [], []
        for one, (image, image_encode_s) in zip(made, encoded, strict=True):
            record = self._record(one, partial, queue_s, image_encode_s, total_s, len(image))
            records.append(record)
            samples.append(
                sample(one.picture, image, self.output) if record.outcome == "ok" else b""
            )
        partial.end(b"".join(samples), records)
        return made

    def _encode(self, made: Made) -> tuple[bytes, float]:
        if made.pixels is None:
            return b"", 0.0
        start = time.perf_counter()
        return encode_image(made.pixels, self.output), time.perf_counter() - start

    def _record(
        self,
        made: Made,
        partial: PartialShard,
        queue_s: float,
        image_encode_s: float,
        total_s: float,
        image_bytes: int,
    ) -> Record:
        compilation = self.renderer.engine.compilation
        return Record(
            **identity_of(made.picture),
            generation=self.origin.generation,
            shard=partial.shard,
            outcome="failed" if made.cause else "ok",
            cause=made.cause,
            error=made.error,
            path=made.path,
            group_size=made.group_size,
            image_bytes=image_bytes,
            text_s=made.text_s,
            denoise_s=made.denoise_s,
            decode_s=made.decode_s,
            queue_s=queue_s,
            image_encode_s=image_encode_s,
            total_s=total_s,
            peak_bytes=made.peak_bytes,
            graphs=compilation.graphs,
            graph_breaks=compilation.breaks,
            recompilations=compilation.recompilations,
            code=compilation.code_sha256,
            skipped=made.trace.skipped if made.trace else "",
            distances=list(made.trace.distances) if made.trace else [],
            host=self.origin.host,
            worker=self.origin.worker,
            attempt=partial.attempt,
            finished_at=time.time(),
            identity=self.renderer.engine.identity,
        )
