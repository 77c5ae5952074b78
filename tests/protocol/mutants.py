"""The protocol with one of its rules broken, each by replacing a few lines of it in the worker's process.

A test that passes on these proves nothing; test_mutants.py shows that each is caught, and at which point.
"""

from __future__ import annotations

from batchgen import durable
from batchgen.shard import commit, journal, partial_shard


def no_fsync() -> None:
    """Tar files are not synced before the commit vouches for them."""
    sync = durable.sync
    durable.sync = lambda file: None if str(file.name).endswith(".tar") else sync(file)


def no_checksum() -> None:
    """A line of the journal is believed however it ends."""
    read = journal.Path.read_bytes

    def repaired(path):
        data = read(path)
        if path.suffix != ".journal":
            return data
        lines = [line.split(b"}")[0] + b"}" for line in data.splitlines()]
        return b"".join(b"%s %08x\n" % (line, journal.zlib.crc32(line)) for line in lines)

    journal.Path.read_bytes = repaired
    partial_shard._digest = lambda samples, lines: ""


def metadata_first() -> None:
    """The metadata gets its published name before the tar."""

    def roll_forward(directory, shard):
        done = commit.read_done(directory, shard)
        parquet, tar = (directory.partial(shard, done.attempt, kind) for kind in ("parquet", "tar"))
        commit._give_name(directory, parquet, directory.metadata(shard))
        if done.tar is not None:
            commit._give_name(directory, tar, directory.data(shard))
        commit.sweep(directory, shard)

    assert commit.roll_forward.__code__ is not roll_forward.__code__
    commit.roll_forward = roll_forward


def no_journal() -> None:
    """Nothing vouches for what was written: every attempt begins at the shard's first picture."""
    partial_shard.PartialShard._say = lambda self, *entries: None


def rename_for_link() -> None:
    """A name is given by rename, which replaces: the last attempt wins, not the first."""

    def link(source, target):
        source.replace(target)
        durable.sync_folder(target.parent)
        return True

    durable.link = link


def commit_unsynced() -> None:
    """The roll-forward trusts a commit whose name may not be on the disk yet."""
    sync_folder = durable.sync_folder
    durable.sync_folder = lambda folder: None if "done" in folder.parts else sync_folder(folder)


MUTANTS = {
    "no-fsync": no_fsync,
    "no-checksum": no_checksum,
    "metadata-first": metadata_first,
    "no-journal": no_journal,
    "rename-for-link": rename_for_link,
    "commit-unsynced": commit_unsynced,
}
