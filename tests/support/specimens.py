"""Example values of the types that wings exchange. A test names the fields it is about."""

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from batchgen.engine.interface import Compilation, Denoised, Engine
from batchgen.errors import DeviceFault, OutOfMemory
from batchgen.manifest import Picture
from batchgen.run.directory import RunDirectory
from batchgen.run.run import Run, create, open_run
from batchgen.run.stages import Notes
from batchgen.run.stop import clear_stop
from batchgen.settings.job import Output, load_job
from batchgen.shard.claims import Claims
from batchgen.shard.commit import Done
from batchgen.shard.partial_shard import PartialShard
from batchgen.shard.records import Record, identity_of
from batchgen.worker.audit import Auditor
from batchgen.worker.limits import Limits
from batchgen.worker.pipeline import Origin, Pipeline
from batchgen.worker.renderer import Renderer
from batchgen.worker.signals import Signals
from batchgen.worker.worker import Worker
from tests.support.rehearsal import write_prompts

PIXELS = 16


def picture(key: int = 0, **given: Any) -> Picture:
    usual: dict[str, Any] = {
        "row": key,
        "image": 0,
        "id": "",
        "prompt": f"a cat {key}",
        "negative_prompt": "",
        "seed": key,
    }
    usual |= {
        "width": PIXELS,
        "height": PIXELS,
        "steps": 4,
        "guidance": 3.5,
        "true_cfg": 1.0,
        "extra": "{}",
    }
    return Picture(key=key, **usual | given)


def pictures(count: int, **given: Any) -> list[Picture]:
    return [picture(key, **given) for key in range(count)]


def record(key: int = 0, *, of: Picture | None = None, **given: Any) -> Record:
    usual: dict[str, Any] = {
        "generation": 0,
        "shard": 0,
        "outcome": "ok",
        "cause": "",
        "error": "",
        "path": "normal",
        "group_size": 1,
    }
    usual |= dict.fromkeys(
        ("text_s", "denoise_s", "decode_s", "queue_s", "image_encode_s", "total_s"), 0.25
    )
    usual |= {
        "image_bytes": 9,
        "peak_bytes": 0,
        "graphs": 0,
        "graph_breaks": 0,
        "recompilations": 0,
        "code": "",
        "skipped": "",
        "distances": [],
        "host": "here",
        "worker": 0,
        "attempt": 1,
        "finished_at": 1.5,
        "identity": "stub",
    }
    return Record(**identity_of(of or picture(key)) | usual | given)


def failure(key: int = 0, cause: str = "exception") -> Record:
    return record(key, outcome="failed", cause=cause, error="why")


def done(shard: int, attempt: int = 1, **given: Any) -> Done:
    usual: dict[str, Any] = {
        "generation": 0,
        "first_key": 0,
        "ok": 4,
        "failed": 0,
        "failures": {},
        "group_s": 2.0,
        "finished_at": 1.5,
    }
    usual |= {
        "tar": f"{shard:06d}.tar",
        "tar_bytes": 100,
        "tar_sha256": "a",
        "tar_md5": "b",
        "metadata_sha256": "c",
    }
    return Done(shard, attempt, **usual | given)


def new_directory(folder: Path, shards: int = 3) -> RunDirectory:
    """A run directory without a plan."""
    directory = RunDirectory(folder / "run")
    directory.inner.mkdir(parents=True)
    directory.make_folders(shards)
    clear_stop(directory)
    return directory


def published(directory: RunDirectory, *commits: Done) -> None:
    """Shards with their commits, and with files of their published names."""
    for commit in commits:
        directory.done(commit.shard).write_bytes(commit.encode())
        for _, target in commit.names(directory):
            target.touch()


def ready(directory: RunDirectory, shard: int, attempt: int, **given: Any) -> Done:
    """An attempt whose tar, metadata and commit are written under their attempt's names."""
    commit = done(shard, attempt, **given)
    for kind, data in [("tar", b"tar"), ("parquet", b"parquet"), ("records", b"records")]:
        directory.partial(shard, attempt, kind).write_bytes(data + b" of attempt %d" % attempt)
    directory.partial(shard, attempt, "json").write_bytes(commit.encode())
    return commit


def write_group(partial: PartialShard, count: int, *, failed: int = 0, begin: bool = True) -> None:
    """The next pictures of an attempt: distinct bytes for each."""
    at = partial.position
    if begin:
        partial.begin(at, count)
    samples = b"".join(b"sample %d;" % key * 50 for key in range(at, at + count))
    partial.end(
        samples,
        [failure(key) if key < at + failed else record(key) for key in range(at, at + count)],
    )


def planned(
    folder: Path, prompts: Sequence[str] = ("a cat",), *settings: str, **columns: Any
) -> Run:
    """A run of the pattern engine, planned and not begun."""
    file = write_prompts(folder / "prompts.parquet", prompts, **columns)
    small = [
        "engine.kind=pattern",
        f"sampling.width={PIXELS}",
        f"sampling.height={PIXELS}",
        "engine.batch_size=2",
        "shards.pictures=4",
    ]
    return create(folder / "run", [file], load_job(None, [*small, *settings]), None)[0]


def copied(run: Run, folder: Path) -> Run:
    """A copy of a run, opened."""
    return open_run(Path(shutil.copytree(run.directory.root, folder / "run")))


def worked(run: Run, engine: Engine | None = None, notes: Notes | None = None) -> Run:
    """A run on which one worker, in this process, has worked until nothing was free."""
    pipeline = Pipeline(
        Renderer(engine or StubEngine()),
        run.job.output,
        Origin("here", 0),
        auditor=Auditor(run.job),
    )
    claims = Claims(run.directory, len(run.plan.shards), 0)
    notes = notes or Notes(None)
    Worker(run, pipeline, claims, Signals(), Limits(run), "here.slot0", notes).work()
    pipeline.close()
    return run


def abandoned(run: Run) -> Run:
    """The same run, whose worker is gone: its shards may be repaired."""
    for claim in (run.directory.inner / "claims").glob("*/*.0001"):
        content = json.loads(claim.read_bytes())
        content["owner"]["pid"] = 2**22 + 1
        claim.write_text(json.dumps(content))
    return run


class StubEngine:
    """An engine whose pictures fail as their prompts say.

    RAISE, FAULT (of the device), NAN, FLAT, RAISE DECODING and FULL DECODING are such prompts; with
    ` once` behind it the fault happens only the first time. More than `fits` pictures do not fit
    into memory.
    """

    identity = "stub"
    compilation = Compilation()

    def __init__(self, fits: int = 1000) -> None:
        self.fits = fits
        self.denoised: list[list[int]] = []  # keys of each group it was given
        self._met: set[tuple[int, str]] = set()

    def denoise(self, group: Sequence[Picture]) -> Denoised:
        self.denoised.append([one.key for one in group])
        if len(group) > self.fits:
            raise OutOfMemory(f"{len(group)} do not fit")
        if self._strikes(group, "FAULT"):
            raise DeviceFault("an illegal memory access")
        if self._strikes(group, "RAISE"):
            raise ValueError("no")
        finite = tuple(not self._strikes([one], "NAN") for one in group)
        return Denoised(
            tuple(group),
            finite,
            group[0].width,
            group[0].height,
            text_s=1.0,
            denoise_s=2.0,
            peak_bytes=7,
        )

    def decode(self, denoised: Denoised) -> tuple[npt.NDArray[np.uint8], float]:
        if self._strikes(denoised.latents, "RAISE DECODING"):
            raise ValueError("not even now")
        if self._strikes(denoised.latents, "FULL DECODING"):
            raise OutOfMemory("the decoder does not fit")
        return np.stack(
            [pixels(one.key, flat=self._strikes([one], "FLAT")) for one in denoised.latents]
        ), 3.0

    def _strikes(self, group: Sequence[Picture], fault: str) -> bool:
        struck = [one for one in group if one.prompt in (fault, f"{fault} once")]
        new = [one for one in struck if one.prompt == fault or (one.key, fault) not in self._met]
        self._met |= {(one.key, fault) for one in struck}
        return bool(new)


class Mended(StubEngine):
    """Makes what failed before, but for some faults."""

    def __init__(self, *still: str) -> None:
        super().__init__()
        self._still = still

    def _strikes(self, group: Sequence[Picture], fault: str) -> bool:
        return fault in self._still and super()._strikes(group, fault)


def pixels(key: int, *, flat: bool = False) -> npt.NDArray[np.uint8]:
    """The stub's picture: known by its key."""
    made = np.full((PIXELS, PIXELS, 3), key % 200, np.uint8)
    made[0] += 0 if flat else 50
    return made


def new_pipeline(engine: StubEngine, **output: Any) -> Pipeline:
    return Pipeline(Renderer(engine), Output(**{"format": "png"} | output), Origin("here", 0))


_watched: list[tuple[str, list[Path]]] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _watched and isinstance(arguments[0], str | bytes):
        for root, opened in _watched:
            if str(arguments[0]).startswith(root):
                opened.append(Path(str(arguments[0])))


sys.addaudithook(_note)  # cannot be taken back, so it looks whether anyone asked


@contextmanager
def opens(root: Path) -> Iterator[list[Path]]:
    """Every file below a folder that this process opens meanwhile."""
    opened: list[Path] = []
    _watched.append((str(root), opened))
    try:
        yield opened
    finally:
        _watched.pop()
