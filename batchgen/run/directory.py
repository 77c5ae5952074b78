"""The names of all files and folders of a run.

runs/NAME/
  README.md  index.json  contact.jpg    the dataset's card, index and contact sheet, made last
  data/000123.tar                       published samples
  metadata/000123.parquet               published records, also of pictures that failed
  .batchgen/
    plan.json  job.toml                 what the run is
    manifest.parquet                    the manifest as one table, if it was none
    identity.json                       the kind of device that the run was begun on
    claims/000/000123.0002              attempt 2 at a shard (shard/claims.py)
    partial/000/000123.0002.*           what this attempt writes (shard/partial_shard.py)
    done/000/000123.json                the commit: the winning attempt, hashes, counts
    jobs/                               submissions and their processes (submissions.py)
    jobs/4711.0.died                    a worker died in SLURM job 4711, requeued 0 times
    logs/                               what the workers print
    sick/                               devices that failed
    stop.json                           the run was asked to stop (stop.py)
    reserve                             bytes that become stop.json when the disk is full
    summary.json                        counts of the shards that are done
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from batchgen.errors import OutputError, shell_command

# Shards in one folder, so that no folder of .batchgen grows without bound.
BUCKET = 1000


@dataclass(frozen=True)
class _Inner:
    """A name in `.batchgen/`, as an attribute of `RunDirectory`."""

    name: str

    def __get__(self, directory: RunDirectory, _: type) -> Path:
        return directory.inner / self.name


@dataclass(frozen=True)
class RunDirectory:
    """The names of one run directory. It remembers nothing but the root."""

    root: Path

    plan = _Inner("plan.json")
    job = _Inner("job.toml")
    manifest = _Inner("manifest.parquet")
    identity = _Inner("identity.json")
    jobs = _Inner("jobs")
    logs = _Inner("logs")
    sick = _Inner("sick")
    stop = _Inner("stop.json")
    reserve = _Inner("reserve")
    summary = _Inner("summary.json")

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", self.root.resolve())

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """The directory of an existing run.

        :raises OutputError: `root` holds no run.
        """
        directory = cls(root)
        if not directory.plan.exists():
            command = shell_command("batchgen", "submit", "MANIFEST", "--out", root)
            raise OutputError(
                f"{root}: not a run directory (no .batchgen/plan.json). Make one with: {command}"
            )
        return directory

    @property
    def inner(self) -> Path:
        """`.batchgen/`: everything that is not for readers of the dataset."""
        return self.root / ".batchgen"

    @property
    def index(self) -> Path:
        """`index.json`, the last file of a complete run."""
        return self.root / "index.json"

    def complete(self) -> bool:
        """Whether the run was finalized."""
        return self.index.exists()

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
        """A file of an attempt: `kind` is tar, records, journal, parquet or json."""
        return self._bucket("partial", shard) / f"{shard:06d}.{attempt:04d}.{kind}"

    def attempt_files(self, shard: int) -> list[Path]:
        """Every file that the attempts at a shard have left."""
        return list(self._bucket("partial", shard).glob(f"{shard:06d}.*"))

    def journals(self) -> list[Path]:
        """The journals of all attempts whose shards are not published yet."""
        return list((self.inner / "partial").glob("*/*.journal"))

    def death(self, job: str, restarts: int) -> Path:
        """The note that a worker died by itself in a job that was requeued `restarts` times."""
        return self.jobs / f"{job}.{restarts}.died"

    def _bucket(self, name: str, shard: int) -> Path:
        return self.inner / name / f"{shard // BUCKET:03d}"

    def make_folders(self, shards: int) -> None:
        """Make all folders that a run of `shards` shards needs."""
        for folder in [self.root / "data", self.root / "metadata", self.jobs, self.logs, self.sick]:
            folder.mkdir(parents=True, exist_ok=True)
        for name in ["claims", "partial", "done"]:
            for bucket in range(-(-shards // BUCKET)):
                (self.inner / name / f"{bucket:03d}").mkdir(parents=True, exist_ok=True)
