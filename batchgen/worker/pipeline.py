"""A shard's tasks, through the renderer and into the shard's files, two groups in flight.

main thread       denoise group k+1  ─────────────────┐
writing thread    decode group k, encode it, write it ┘  then both go on to the next

Between two groups, the main thread makes what an audit compares the first of them with (audit.py).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from batchgen.engine.rules import as_read
from batchgen.errors import DeviceFault
from batchgen.model import Guidance
from batchgen.settings import Output
from batchgen.shard import PartialShard, Record, Task, identity_of
from batchgen.worker.audit import FAILED, INTERRUPTED, Auditor, Reference, Uncached
from batchgen.worker.in_flight import InFlight
from batchgen.worker.renderer import Made, Part, Renderer
from batchgen.worker.samples import Encoded, encode_picture, sample
from batchgen.worker.scoring import UNSEEN, Scoring, Seen

ENCODERS = min(8, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Origin:
    """What all records of a process have in common."""

    host: str
    worker: int


@dataclass
class Pipeline:
    """Owns the threads that decode, encode and write."""

    renderer: Renderer
    output: Output
    origin: Origin
    in_flight: InFlight = field(default_factory=InFlight)
    # How the model is guided: what it does not read is not recorded. None: every value acts.
    guidance: Guidance | None = None
    auditor: Auditor = field(default_factory=Auditor)
    # Put into every picture; b"" for nothing.
    xmp: bytes = b""
    scoring: Scoring = field(default_factory=Scoring)
    _writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "write"))
    _encoders: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(ENCODERS, "encode")
    )

    def run(
        self,
        partial: PartialShard,
        tasks: Iterable[Task],
        may_begin: Callable[[Task], bool],
        before_audit: Callable[[], None] = lambda: None,
    ) -> Iterator[list[Made]]:
        """Make the tasks in order until one may not begin; yield each group once it is written.

        However the call ends, also by an exception, what was denoised is written before it returns.

        :param before_audit: called when a group is denoised and its audit begins.
        """
        pending: Future[list[Made]] | None = None
        uncached: Future[list[Uncached]] = Future()
        try:
            for task in tasks:
                if pending and task.careful:
                    done, pending = pending, None
                    yield done.result()
                if not may_begin(task):
                    break
                begun = time.perf_counter()
                self.in_flight.begin(partial, task)
                parts, denoised = self._denoise(task), time.perf_counter()
                before, uncached = pending, Future()
                pending = self._writer.submit(
                    self._finish, partial, parts, uncached, begun, denoised, before
                )
                uncached.set_result(self._audit(parts, before_audit))
                if before:
                    yield before.result()
            if pending:
                last, pending = pending, None
                yield last.result()
        finally:
            if not uncached.done():  # the writing thread waits for it
                uncached.set_result([])
            if pending:
                wait([pending])

    def close(self) -> None:
        """Let the threads end."""
        self._writer.shutdown()
        self._encoders.shutdown()

    def _denoise(self, task: Task) -> list[Part]:
        if task.cause:
            return [Part(task.pictures, None, task.path, task.cause, task.error)]
        return self.renderer.denoise(task.pictures, task.path)

    def _audit(self, parts: Sequence[Part], before_audit: Callable[[], None]) -> list[Uncached]:
        """The group's audited pictures without the cache."""
        chosen = [(part, some) for part in parts if (some := self.auditor.chosen(part.pictures))]
        if chosen:
            before_audit()
        return [
            self.auditor.denoise(pictures, part.path, self.renderer.denoise_uncached)
            if part.denoised
            else Uncached(pictures, error=FAILED)
            for part, pictures in chosen
        ]

    def _finish(
        self,
        partial: PartialShard,
        parts: Sequence[Part],
        uncached: Future[list[Uncached]],
        begun: float,
        denoised: float,
        before: Future[list[Made]] | None,
    ) -> list[Made]:
        """Decode, encode and write a group.

        :param uncached: what its audited pictures are without the cache.
        :param begun: when its denoising began, on the performance counter.
        :param denoised: when its denoising ended, likewise.
        """
        if before and before.exception():
            return []  # the group before was not written: this one would leave a hole
        queue_s = time.perf_counter() - denoised
        made = [one for part in parts for one in self.renderer.decode(part)]
        encoding = self._encoders.map(self._encode, made)
        seen, ill = self._scores(made)
        encoded = list(encoding)
        total_s = time.perf_counter() - begun
        references, fault = self._references(made, uncached.result())
        made = list(self._encoders.map(lambda one: self._compared(one, references), made))
        samples, records = [], []
        for one, file in zip(made, encoded, strict=True):
            read = replace(one, picture=as_read(one.picture, self.guidance))
            times = {"queue_s": queue_s, "total_s": total_s}
            record = self._record(read, partial, file, times)
            scores = seen.get(read.picture.key, UNSEEN).fields()
            records.append(replace(record, **scores))
            samples.append(b"" if one.cause else sample(read.picture, file.image, self.output))
        partial.end(b"".join(samples), records)
        if fault := ill or fault:
            raise fault
        return made

    def _scores(self, made: Sequence[Made]) -> tuple[dict[int, Seen], DeviceFault | None]:
        """What the scorer says about good pictures, by key.

        If the device fails over it, the fault too: it is raised when the pictures are written.
        """
        good = [(one.picture, one.pixels) for one in made if one.pixels is not None]
        try:
            return self.scoring.of(good), None
        except DeviceFault as fault:
            return {}, fault

    def _references(
        self, made: Sequence[Made], uncached: Sequence[Uncached]
    ) -> tuple[dict[int, Reference], DeviceFault | None]:
        """What audited pictures are compared with, by key.

        If the device fails over it, the fault too: it is raised when the pictures are written.
        """
        chosen = self.auditor.chosen([one.picture for one in made])
        references = {picture.key: INTERRUPTED for picture in chosen}
        try:
            for some in uncached:
                references |= self.auditor.decode(some, self.renderer.engine.decode)
        except DeviceFault as fault:
            return references, fault
        return references, None

    def _compared(self, one: Made, references: Mapping[int, Reference]) -> Made:
        """A picture, with what the audit found about it."""
        reference = references.get(one.picture.key)
        return replace(one, audited=self.auditor.judge(one.pixels, reference))

    def _encode(self, made: Made) -> Encoded:
        if made.pixels is None:
            return Encoded()
        return encode_picture(made.pixels, self.output, self.xmp)

    def _record(
        self, made: Made, partial: PartialShard, file: Encoded, times: dict[str, float]
    ) -> Record:
        compilation = self.renderer.engine.compilation
        return Record(
            **identity_of(made.picture),
            generation=partial.generation,
            shard=partial.shard,
            outcome="failed" if made.cause else "ok",
            cause=made.cause,
            error=made.error,
            path=made.path,
            group_size=made.group_size,
            image_bytes=len(file.image),
            text_s=made.text_s,
            denoise_s=made.denoise_s,
            decode_s=made.decode_s,
            queue_s=times["queue_s"],
            image_encode_s=file.seconds,
            total_s=times["total_s"],
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
            audit=made.audited.outcome,
            audit_error=made.audited.error,
            psnr=made.audited.psnr,
            ssim=made.audited.ssim,
            audit_s=made.audited.device_s,
            products=list(made.trace.products) if made.trace and made.trace.products else None,
            sha256=file.sha256,
            phash=file.phash,
        )
