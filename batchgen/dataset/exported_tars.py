"""The tars of an export: samples of published tars, gathered, each picture signed if asked."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from batchgen import durable
from batchgen.dataset.chosen import Chosen
from batchgen.dataset.samples import Sample, read_samples
from batchgen.dataset.signing import Signer
from batchgen.errors import DamagedRun
from batchgen.regular_file import open_regular
from batchgen.run import Run
from batchgen.shard import key_text, read_metadata, remake


class ImageFile(NamedTuple):
    """A picture in a tar."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class ExportedTar:
    """A tar that is whole."""

    path: Path
    # Below the copy.
    name: str
    # In their order in the tar.
    keys: Sequence[int]
    # By key, if the pictures are not the run's own files.
    signed: Mapping[int, ImageFile]


def write_tar(run: Run, path: Path, chosen: Sequence[Chosen], signer: Signer | None) -> ExportedTar:
    """Write a tar of these pictures, unless it is there. It gets its name when it is whole.

    :raises DamagedRun: a tar of the run is damaged, or a picture is not that of its record.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.with_name(f"{path.name}.begun")
        with begun.open("wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
                for sample in _samples(run, chosen, signer):
                    _add(tar, sample)
            file.flush()
            durable.sync(file)
        begun.replace(path)
        durable.sync_folder(path.parent)
    keys = [key for _, some in chosen for key in some.tolist()]
    signed = _images(path, run.job.output.format, keys) if signer else {}
    return ExportedTar(path, "/".join(path.parts[-3:]), keys, signed)


def md5_of(path: Path) -> str:
    """The MD5 of a file, in hex, as an index has it."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _samples(run: Run, chosen: Sequence[Chosen], signer: Signer | None) -> Iterator[Sample]:
    kind = run.job.output.format
    for tar, keys in chosen:
        hashes = _hashes(run, tar)
        for sample in read_samples(tar, set(map(key_text, keys.tolist()))):
            key, image = sample["__key__"], sample[kind]
            if hashes.get(key, found := hashlib.sha256(image).hexdigest()) != found:
                again = remake(run.directory, deep=True)
                raise DamagedRun(f"{tar}: {key}.{kind} is not what its record says. {again}")
            yield sample | ({kind: signer.sign(image, kind, f"{key}.{kind}")} if signer else {})


def _hashes(run: Run, tar: Path) -> dict[str, str]:
    """Key → SHA-256 of a tar's pictures; nothing for runs of older versions."""
    table = read_metadata(run.directory.metadata(int(tar.stem)), ["key", "sha256"])
    if "sha256" not in table.column_names:
        return {}
    rows = zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True)
    return {key: sha256 for key, sha256 in rows if sha256}


def _add(tar: tarfile.TarFile, sample: Sample) -> None:
    """Add a sample's files as workers write them: no owner, no time."""
    for kind in (kind for kind in sample if not kind.startswith("__")):
        member = tarfile.TarInfo(f"{sample['__key__']}.{kind}")
        member.size = len(sample[kind])
        tar.addfile(member, io.BytesIO(sample[kind]))


def _images(path: Path, kind: str, keys: Sequence[int]) -> dict[int, ImageFile]:
    """What the tar's pictures are, by key."""
    samples = read_samples(path, set(map(key_text, keys)))
    return {
        int(one["__key__"]): ImageFile(hashlib.sha256(one[kind]).hexdigest(), len(one[kind]))
        for one in samples
    }
