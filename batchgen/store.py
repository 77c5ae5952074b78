"""The run directory: its names, what is done, commit and roll-forward, the stop flag.

    runs/NAME/
      README.md  index.json  contact.jpg      by finalize, when the last shard is published
      data/000123.tar                         published samples
      metadata/000123.parquet                 published records, failures too
      .batchgen/
        plan.json  job.toml                   what the run is
        claims/000/000123.0002                who works on a shard: attempt 2 (claims.py)
        partial/000/000123.0002.*             the shard being written by that attempt (partial.py)
        done/000/000123.json                  the commit: names the attempt that won, its hashes and counts
        jobs/  logs/  sick/                   submissions and their workers; what they print; devices that failed
        jobs/4711.0.died                      a worker of this SLURM job, not requeued before, died by itself
        stop.json                             the run was asked to stop; cause and time

**Commit is one link.** An attempt syncs its tar, Parquet and JSON under attempt-named names and links the JSON to
`done/N.json`: whoever's link succeeds has won. Then that attempt's metadata and tar are linked to their published
names. This roll-forward may be done by anyone, any number of times: `done/N.json` says which attempt it is, and
the attempt's files are removed only when both published names exist.

The tar is linked before the metadata: who sees `metadata/N.parquet` can open `data/N.tar`.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from batchgen import durable
from batchgen.errors import DamagedRun, OutputError

BUCKET = 1000  # shards a folder, so that no folder of .batchgen grows without bound
StopCause = Literal["user", "disk full", "failure budget", "time limit", "restarts"]
_SHARD = re.compile(r"^(\d{6,})\.(tar|parquet|json)$")


@dataclass(frozen=True, slots=True)
class Done:
    """A committed shard: which attempt won, and what is in it."""

    shard: int
    attempt: int
    generation: int
    first_key: int
    ok: int
    failed: int
    failures: dict[str, int]  # cause → pictures
    tar: str | None  # name under data/; None where not one picture is good
    tar_bytes: int
    tar_sha256: str
    tar_md5: str
    metadata_sha256: str
    group_s: float  # seconds of the replica's device: text, denoise and decode of all groups
    finished_at: float  # seconds since the epoch

    def encode(self) -> bytes:
        """JSON for `done/N.json`."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Stop:
    """The run was asked to stop."""

    cause: StopCause
    text: str
    at: float


class Store:
    """Names and facts of one run directory. Holds no state but its root: everything is asked of the disk."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.inner = self.root / ".batchgen"
        self.plan = self.inner / "plan.json"
        self.job = self.inner / "job.toml"
        self.manifest = self.inner / "manifest.parquet"
        self.jobs = self.inner / "jobs"
        self.logs = self.inner / "logs"
        self.sick = self.inner / "sick"
        self.stop = self.inner / "stop.json"
        self.summary = self.inner / "summary.json"
        self.identity = self.inner / "identity.json"
        self.reserve = self.inner / "reserve"
        self.index = self.root / "index.json"

    @classmethod
    def open(cls, root: Path) -> Store:
        """The store of an existing run.

        :raises OutputError: there is none.
        """
        store = cls(root)
        if not store.plan.exists():
            raise OutputError(f"{root}: not a run directory (no .batchgen/plan.json). Make one with: batchgen submit MANIFEST --out {root}")
        return store

    def data(self, shard: int) -> Path:
        """The published tar."""
        return self.root / "data" / f"{shard:06d}.tar"

    def metadata(self, shard: int) -> Path:
        """The published records."""
        return self.root / "metadata" / f"{shard:06d}.parquet"

    def done(self, shard: int) -> Path:
        """The commit."""
        return self._bucket("done", shard) / f"{shard:06d}.json"

    def claim(self, shard: int, attempt: int) -> Path:
        """The claim of an attempt."""
        return self._bucket("claims", shard) / f"{shard:06d}.{attempt:04d}"

    def partial(self, shard: int, attempt: int, kind: str) -> Path:
        """A file of an attempt: kind is tar, records, journal, parquet or json."""
        return self._bucket("partial", shard) / f"{shard:06d}.{attempt:04d}.{kind}"

    def death(self, job: str, restarts: int) -> Path:
        """Where the batch script of a SLURM job says that a worker of this incarnation died by itself."""
        return self.jobs / f"{job}.{restarts}.died"

    def _bucket(self, name: str, shard: int) -> Path:
        return self.inner / name / f"{shard // BUCKET:03d}"

    def make_folders(self, shards: int) -> None:
        """All folders of a run of so many shards."""
        for folder in [self.root / "data", self.root / "metadata", self.jobs, self.logs, self.sick]:
            folder.mkdir(parents=True, exist_ok=True)
        for name in ["claims", "partial", "done"]:
            for bucket in range(-(-shards // BUCKET)):
                (self.inner / name / f"{bucket:03d}").mkdir(parents=True, exist_ok=True)

    def committed(self) -> set[int]:
        """Shards with a commit; listings only, nothing is opened."""
        return {shard for bucket in _entries(self.inner / "done") for shard in _shards(bucket)}

    def published(self) -> set[int]:
        """Shards whose metadata, the last name of the roll-forward, is there."""
        return set(_shards(self.root / "metadata"))

    def visible(self) -> set[int]:
        """Shards of which readers can see the tar or the metadata."""
        return set(_shards(self.root / "data")) | self.published()

    def read_done(self, shard: int) -> Done:
        """The commit of a shard.

        :raises DamagedRun: it is not what `commit` wrote.
        """
        path = self.done(shard)
        try:
            return Done(**json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            names = f"{self.data(shard)} and {self.metadata(shard)}"
            raise DamagedRun(f"{path}: not a commit: {error}. Move it, {names} away and resume: the shard is made again.") from None

    def commit(self, done: Done) -> bool:
        """Publish an attempt whose tar, parquet and json are synced; False if another attempt has won."""
        try:
            won = durable.link(self.partial(done.shard, done.attempt, "json"), self.done(done.shard))
        except FileNotFoundError:  # the winner's roll-forward has swept our files away
            won = False
        if not won and not self.done(done.shard).exists():
            raise DamagedRun(
                f"{self.partial(done.shard, done.attempt, 'json')} is gone, and shard {done.shard} was not committed by another"
            )
        self.roll_forward(done.shard)
        return won

    def roll_forward(self, shard: int) -> None:
        """Give the committed attempt's files their published names, then remove every attempt's own."""
        durable.sync_folder(self.done(shard).parent)  # whoever committed may have died before its link was on the disk
        done = self.read_done(shard)
        if done.tar is not None:
            self._give_name(self.partial(shard, done.attempt, "tar"), self.data(shard))
        self._give_name(self.partial(shard, done.attempt, "parquet"), self.metadata(shard))
        self.sweep(shard)

    def _give_name(self, source: Path, target: Path) -> None:
        try:
            mine = durable.link(source, target)
        except FileNotFoundError:  # somebody finished the roll-forward before us
            mine = target.exists()
        if not mine:
            wrong = "is not the file that was committed" if target.exists() else "was committed and is missing"
            raise DamagedRun(f"{target} {wrong}. To be told what to do about it: batchgen verify {self.root}")

    def sweep(self, shard: int) -> None:
        """Remove what the attempts of a published shard left behind."""
        left = list(self._bucket("partial", shard).glob(f"{shard:06d}.*"))
        for folder in (self.root / "data", self.root / "metadata") if left else ():
            durable.sync_folder(folder)  # as above: nothing is removed before the published names are on the disk
        for path in left:
            durable.remove(path)

    def ask_to_stop(self, cause: StopCause, text: str) -> None:
        """Set the stop flag; the first cause stays."""
        flag = json.dumps({"cause": cause, "text": text, "at": time.time()}).encode()
        try:
            durable.create(self.stop, flag)
        except OSError as error:
            if not durable.is_full(error):
                raise
            durable.create_from(self.reserve, self.stop, flag)

    def stopped(self) -> Stop | None:
        """The stop flag, if it is set."""
        try:
            return Stop(**json.loads(self.stop.read_bytes()))
        except FileNotFoundError:
            return None

    def clear_stop(self) -> None:
        """Let the run go on; also renews the reserve that lets a full disk say so."""
        durable.write(self.reserve, bytes(65536))
        durable.remove(self.stop)

    def complete(self) -> bool:
        """Whether the run was finalized."""
        return self.index.exists()


def _entries(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.iterdir()) if folder.is_dir() else ()


def _shards(folder: Path) -> Iterator[int]:
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := _SHARD.match(path.name):
            yield int(match.group(1))
