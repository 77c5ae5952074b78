"""A copy of a complete run with tars for each split: many loaders divide a dataset by its files.

    data/0/000000.tar …       samples of the first split, for training; data/1, data/2: of others
    metadata/000000.parquet   the run's records; `tar` is where the picture is in the copy

Each picture is there once, as it was made last. No folder is named after its split: loaders guess
from names. The card says which is which.
"""

from __future__ import annotations

import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.dataset.card import dataset_card
from batchgen.dataset.chosen import Chosen, choose, latest_records, metadata_files
from batchgen.dataset.finalize import summarize
from batchgen.dataset.samples import Sample, read_samples
from batchgen.dataset.splits import splits_of
from batchgen.errors import InputError, OutputError, shell_command
from batchgen.run import Run, RunDirectory
from batchgen.shard import committed_shards, key_text, read_done, stream_metadata

# Files of the run that its copy has, too.
_COPIED = ("statistics.json", "contact.jpg", "report.html")


def split_run(run: Run, folder: Path) -> dict[str, int]:
    """Copy a complete run, its splits apart. The folder appears when the copy is whole.

    :param folder: a new or an empty one.
    :return: how many pictures each split has.
    :raises InputError: the run is not complete, or has no good picture.
    :raises OutputError: the folder holds something.
    :raises DamagedRun: a file of the run is damaged.
    """
    root = run.directory.root
    if not run.directory.complete():
        resume = shell_command("batchgen", "resume", root)
        raise InputError(f"{root}: not complete, and a copy would not be either. First: {resume}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: holds something; name a new or an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        counts = _write(run, work, folder)
        work.chmod(0o755)
        work.replace(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return counts


def _write(run: Run, work: Path, folder: Path) -> dict[str, int]:
    directory = run.directory
    splits = {
        split: choose(directory.root, bounds, None)
        for split, bounds in splits_of(directory.root).bounds().items()
    }
    # As many pictures in a tar as the run's largest has.
    size = max((len(keys) for chosen in splits.values() for _, keys in chosen), default=1)
    files, counts, placed = dict[str, str](), dict[str, int](), dict[str, list[int]]()
    for number, (split, chosen) in enumerate(splits.items()):
        tars = dict(_write_tars(work / "data" / str(number), _samples(chosen), size))
        placed |= {f"data/{number}/{name}": keys for name, keys in tars.items()}
        counts[split] = sum(map(len, tars.values()))
        if tars:
            files[split] = f"data/{number}/*.tar"
    if not placed:
        raise InputError(f"{directory.root}: has no good picture to copy")
    _write_records(metadata_files(directory.root), work / "metadata", placed)
    for path in (directory.root / name for name in _COPIED):
        if path.exists():
            shutil.copyfile(path, work / path.name)
    done = [read_done(directory, shard) for shard in sorted(committed_shards(directory))]
    named = replace(run, directory=RunDirectory(folder))
    card = dataset_card(named, summarize(directory, done), files)
    (work / "README.md").write_text(card)
    return counts


def _samples(chosen: Sequence[Chosen]) -> Iterator[Sample]:
    for tar, keys in chosen:
        yield from read_samples(tar, set(map(key_text, keys.tolist())))


def _write_tars(
    folder: Path, samples: Iterator[Sample], size: int
) -> Iterator[tuple[str, list[int]]]:
    """Tars of so many samples; the name of each, and its keys."""
    folder.mkdir(parents=True)
    for number in count():
        part = islice(samples, size)
        if (first := next(part, None)) is None:
            return
        path, keys = folder / f"{number:06d}.tar", []
        with tarfile.open(path, "w:", format=tarfile.USTAR_FORMAT) as tar:
            for sample in chain([first], part):
                keys.append(int(sample["__key__"]))
                for kind in (kind for kind in sample if not kind.startswith("__")):
                    # As workers write it: no owner, no time.
                    member = tarfile.TarInfo(f"{sample['__key__']}.{kind}")
                    member.size = len(sample[kind])
                    tar.addfile(member, io.BytesIO(sample[kind]))
        yield path.name, keys


def _write_records(
    files: Sequence[Path], folder: Path, placed: Mapping[str, Sequence[int]]
) -> None:
    """The records that count, each with the tar that has its picture now."""
    folder.mkdir()
    names = pa.array(placed, pa.string())
    keys = np.concatenate([np.array(some, np.int64) for some in placed.values()])
    tars = np.repeat(np.arange(len(placed)), [len(some) for some in placed.values()])
    order = np.argsort(keys)
    keys, tars = keys[order], tars[order]
    for path, latest in zip(files, latest_records(files), strict=True):
        table = pa.concat_tables(stream_metadata(path)).filter(pa.array(latest))
        wanted = table["index"].to_numpy()
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        places = names.take(pa.array(tars[at], mask=keys[at] != wanted))
        column = table.column_names.index("tar")
        table = table.set_column(column, table.field("tar"), places)
        pq.write_table(table, folder / path.name, compression="zstd")
