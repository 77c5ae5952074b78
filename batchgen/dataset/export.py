"""A copy of a complete run, with tars for each split and, if asked, a signature in each picture.

    data/0/000000.tar …       samples of the first split, for training; data/1, data/2: of others
    metadata/000000.parquet   the run's records; `tar`, `sha256` and `image_bytes` are the copy's

Many loaders divide a dataset by its files. No folder is named after its split: loaders guess from
names. The card says which is which. Each picture is there once, as it was made last.

The copy is written into FOLDER.part, a tar at a time under another name until it is whole, and gets
its own name at last. So the same command again continues one that was killed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from batchgen import durable
from batchgen.dataset.card import dataset_card
from batchgen.dataset.card_features import sample_features
from batchgen.dataset.chosen import Chosen, choose, metadata_files
from batchgen.dataset.exported_records import write_records
from batchgen.dataset.exported_tars import ExportedTar, md5_of, write_tar
from batchgen.dataset.finalize import summarize
from batchgen.dataset.signing import Signer
from batchgen.dataset.splits import splits_of
from batchgen.dataset.wids import IndexedTar, wids_index
from batchgen.errors import InputError, OutputError, shell_command
from batchgen.regular_file import read_regular
from batchgen.run import Run, RunDirectory
from batchgen.shard import committed_shards, read_done

# Files of the run that its copy has, too.
_COPIED = ("statistics.json", "contact.jpg", "report.html")
# What FOLDER.part is a copy of.
_ABOUT = "export.json"


class Part(NamedTuple):
    """A tar of the copy: the pictures that it is to have."""

    split: str
    # Below data/.
    name: str
    chosen: Sequence[Chosen]


def export_run(run: Run, folder: Path, signer: Signer | None = None) -> dict[str, int]:
    """Copy a complete run, its splits apart. The folder appears when the copy is whole.

    :param folder: a new or an empty one, outside of the run.
    :param signer: signs each picture; None leaves them as they are.
    :return: how many pictures each split has.
    :raises InputError: the run is not complete, or has no good picture.
    :raises OutputError: the folder holds something, or is in the run's.
    :raises DamagedRun: a file of the run is damaged, or a picture is not that of its record.
    """
    root, folder = run.directory.root, folder.resolve()
    if not run.directory.complete():
        resume = shell_command("batchgen", "resume", root)
        raise InputError(f"{root}: not complete, and a copy would not be either. First: {resume}")
    if folder.is_relative_to(root):
        raise OutputError(f"{folder}: in the folder of the run; name one outside of it")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: holds something; name a new or an empty folder")
    parts = list(_parts(root))
    if not parts:
        raise InputError(f"{root}: has no good picture to copy")
    work = folder.with_name(f"{folder.name}.part")
    _begin(work, _about(run, parts, signer))
    counts = dict.fromkeys(splits_of(root).bounds(), 0)
    tars = []
    for part in parts:
        tars.append(write_tar(run, work / "data" / part.name, part.chosen, signer))
        counts[part.split] += len(tars[-1].keys)
    write_records(metadata_files(root), work / "metadata", tars)
    _describe(run, work, folder, parts, tars, signer)
    work.replace(folder)
    durable.sync_folder(folder.parent)
    (folder / _ABOUT).unlink()  # last: whoever is killed before leaves what can be continued
    return counts


def _parts(root: Path) -> Iterator[Part]:
    """The tars of the copy. Each but a split's last has as many pictures as the run's largest."""
    splits = {
        split: choose(root, bounds, None) for split, bounds in splits_of(root).bounds().items()
    }
    size = max((len(keys) for some in splits.values() for _, keys in some), default=1)
    for number, (split, some) in enumerate(splits.items()):
        for tar, chosen in enumerate(_cut(some, size)):
            yield Part(split, f"{number}/{tar:06d}.tar", chosen)


def _cut(chosen: Sequence[Chosen], size: int) -> Iterator[list[Chosen]]:
    """The same pictures in the same order, `size` at a time."""
    begun: list[Chosen] = []
    free = size
    for tar, keys in chosen:
        while len(keys):
            begun.append(Chosen(tar, keys[:free]))
            keys, free = keys[free:], free - len(begun[-1].keys)
            if not free:
                yield begun
                begun, free = [], size
    if begun:
        yield begun


def _about(run: Run, parts: Sequence[Part], signer: Signer | None) -> bytes:
    """What must be the same for an export to be continued."""
    keys = hashlib.sha256()
    for part in parts:
        for tar, some in part.chosen:
            keys.update(f"{part.name} {tar.name} ".encode() + some.astype(np.int64).tobytes())
    certificate = hashlib.sha256(signer.chain).hexdigest() if signer else ""
    about = {"run": run.plan.run, "pictures": keys.hexdigest(), "certificate": certificate}
    return json.dumps(about, indent=1).encode() + b"\n"


def _begin(work: Path, about: bytes) -> None:
    """Make the folder, or leave in it what the same export has written before it was killed."""
    written = work / _ABOUT
    if not written.exists() or read_regular(written) != about:
        if work.exists() and not written.exists() and any(work.iterdir()):
            raise OutputError(f"{work}: holds something that is no export; move it away")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        durable.write(written, about)


def _describe(
    run: Run,
    work: Path,
    folder: Path,
    parts: Sequence[Part],
    tars: Sequence[ExportedTar],
    signer: Signer | None,
) -> None:
    """Write the files beside tars and records."""
    directory = run.directory
    for path in (directory.root / name for name in _COPIED):
        if path.exists():
            durable.write(work / path.name, read_regular(path))
    files = {part.split: f"data/{Path(part.name).parent}/*.tar" for part in parts}
    done = [read_done(directory, shard) for shard in sorted(committed_shards(directory))]
    named = replace(run, directory=RunDirectory(folder))
    card = dataset_card(named, summarize(directory, done), sample_features(run), files)
    durable.write(work / "README.md", (card + (signer.told() if signer else "")).encode())
    if len(files) == 1:  # an index has no splits
        listed = [
            IndexedTar(
                f"data/{part.name}", md5_of(tar.path), len(tar.keys), tar.path.stat().st_size
            )
            for part, tar in zip(parts, tars, strict=True)
        ]
        durable.write(work / "index.json", wids_index(folder.name, listed))
