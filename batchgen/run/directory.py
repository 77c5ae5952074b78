"""The names of all files and folders of a run.

runs/NAME/
  README.md  index.json                 the dataset's card and index, made last
  contact.jpg  report.html              a sheet of thumbnails, and the run on one page, likewise
  data/000123.tar                       published samples
  metadata/000123.parquet               published records, also of pictures that failed
  .batchgen/
    plan.json  job.toml                 what the run is
    plan-0001.json                      its first later generation (generations.py)
    keys-0001.9f86d081884c.parquet      the pictures that it makes (key_lists.py)
    manifest.parquet                    the manifest as one table, if it was none
    manifest/                           its Parquet files, if they were behind URLs
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
    moved.json                          where the manifest's files are now, if they were moved
    replaced/0001/                      what `verify --repair` or a new card took the place of
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable
from batchgen.checked_json import unseal
from batchgen.errors import OutputError, shell_command
from batchgen.regular_file import read_regular

# Shards in one folder, so that no folder of .batchgen grows without bound.
BUCKET = 1000
# Modes of new folders: of those that readers of the dataset look into, and of all others. Nobody
# else may write, because a run is gone on with by doing what its files say (ownership.py).
READABLE, PRIVATE = 0o755, 0o700
_GENERATION = re.compile(r"^plan-(\d{4,})\.json$")
_JOURNAL = re.compile(r"^\d{6,}\.\d{4,}\.journal$")


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
    fetched = _Inner("manifest")
    identity = _Inner("identity.json")
    jobs = _Inner("jobs")
    logs = _Inner("logs")
    sick = _Inner("sick")
    stop = _Inner("stop.json")
    reserve = _Inner("reserve")
    summary = _Inner("summary.json")
    moved = _Inner("moved.json")
    replaced = _Inner("replaced")

    def __post_init__(self) -> None:
        # `Path.resolve` raises a RuntimeError for a link to itself.
        object.__setattr__(self, "root", Path(os.path.realpath(self.root)))

    @classmethod
    def open(cls, root: Path) -> RunDirectory:
        """The directory of an existing run.

        :raises OutputError: `root` holds no run.
        """
        directory = cls(root)
        if not directory.plan.exists():
            raise OutputError(explain_no_run(directory))
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
        """Whether the run was finalized, with its last generation."""
        last = self.last_generation()
        if not last:
            return self.index.exists()
        try:
            return unseal(read_regular(self.index)).get("generation") == last
        except (OSError, ValueError):
            return False

    def generation(self, number: int) -> Path:
        """The plan of a later generation, counted from 1."""
        return self.inner / f"plan-{number:04d}.json"

    def last_generation(self) -> int:
        """The highest number of a later generation; 0 if there is none."""
        matches = (_GENERATION.match(path.name) for path in self.inner.glob("plan-*.json"))
        return max((int(match[1]) for match in matches if match), default=0)

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
        paths = (self.inner / "partial").glob("*/*.journal")
        return [path for path in paths if _JOURNAL.match(path.name)]

    def death(self, job: str, restarts: int) -> Path:
        """The note that a worker died by itself in a job that was requeued `restarts` times."""
        return self.jobs / f"{job}.{restarts}.died"

    def _bucket(self, name: str, shard: int) -> Path:
        return self.inner / name / f"{shard // BUCKET:03d}"

    def make_folders(self, shards: int) -> None:
        """Make all folders that a run of `shards` shards needs.

        Their names are on the disk then, also those that another process has made.
        """
        self.make_inner()
        for folder in [self.root / "data", self.root / "metadata"]:
            folder.mkdir(READABLE, exist_ok=True)
        for folder in [self.jobs, self.logs, self.sick]:
            folder.mkdir(PRIVATE, exist_ok=True)
        for name in ["claims", "partial", "done"]:
            (self.inner / name).mkdir(PRIVATE, exist_ok=True)
            for bucket in range(-(-shards // BUCKET)):
                (self.inner / name / f"{bucket:03d}").mkdir(PRIVATE, exist_ok=True)
            durable.sync_folder(self.inner / name)
        for folder in [self.inner, self.root]:
            durable.sync_folder(folder)

    def make_inner(self) -> None:
        """Make the run directory, and `.batchgen/` in it for this user alone."""
        self.root.mkdir(READABLE, parents=True, exist_ok=True)
        self.inner.mkdir(PRIVATE, exist_ok=True)


def explain_no_run(directory: RunDirectory) -> str:
    """What a folder without `.batchgen/plan.json` is, and what to do."""
    command = shell_command("batchgen", "submit", "MANIFEST", "--out", directory.root)
    return explain_remains(directory) or (
        f"{directory.root}: not a run directory (no .batchgen/plan.json). Make one with: {command}"
    )


def explain_remains(directory: RunDirectory) -> str:
    """What is left of a run whose plan is gone, and what to do; "" if it never was a run."""
    root = directory.root
    if next((directory.inner / "done").glob("*/*.json"), None):
        return (
            f"{root}: a run whose .batchgen/plan.json is gone. Put it back from a copy: without it "
            "nobody knows which pictures were planned."
        )
    if next((root / "data").glob("*.tar"), None) and next((root / "metadata").glob("*"), None):
        again = shell_command("rsync", "-a", "ORIGINAL/", f"{root}/")
        return (
            f"{root}: a dataset without its folder .batchgen (copied without dot-files, or "
            "downloaded). It can be read and trained on, but not continued or recounted: for that, "
            f"copy the whole run again, for example with: {again}"
        )
    return ""
