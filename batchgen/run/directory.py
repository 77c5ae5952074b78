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

from pathlib import Path

from batchgen.errors import OutputError

BUCKET = 1000  # shards a folder, so that no folder of .batchgen grows without bound


class RunDirectory:
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
    def open(cls, root: Path) -> RunDirectory:
        """The store of an existing run.

        :raises OutputError: there is none.
        """
        directory = cls(root)
        if not directory.plan.exists():
            raise OutputError(
                f"{root}: not a run directory (no .batchgen/plan.json). Make one with: batchgen submit MANIFEST --out {root}"
            )
        return directory

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

    def complete(self) -> bool:
        """Whether the run was finalized."""
        return self.index.exists()
