"""A complete run copied into another folder, with a signed C2PA manifest in every picture.

The shards keep their numbers and all of their members; of the records, `sha256` and `image_bytes`
are those of the signed files. Signatures hold the time and random numbers, so two exports differ.

A shard's tar gets its name when its records are there. An export that was killed continues after
the last one, if the same run is exported with the same certificate.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen import durable
from batchgen.dataset.card import dataset_card
from batchgen.dataset.finalize import wids_index
from batchgen.dataset.signing import Signer
from batchgen.dataset.statistics import gather
from batchgen.errors import DamagedRun, OutputError, shell_command
from batchgen.regular_file import open_regular, read_regular
from batchgen.run import Run, RunDirectory
from batchgen.shard import Done, committed_shards, read_done, remake

# What is exported, and with which certificate; see `_begin`.
_ABOUT = "export.json"


@dataclass(frozen=True, slots=True)
class _File:
    """A signed picture in a tar."""

    sha256: str
    size: int


def export_run(run: Run, out: Path, signer: Signer) -> int:
    """Copy a complete run's dataset, its pictures signed.

    :param out: a new or an empty folder, or one where the same export was begun.
    :returns: how many pictures the copy has.
    :raises OutputError: the run is not complete, or the folder is another's.
    :raises DamagedRun: a picture is not the one that its record says.
    """
    directory = run.directory
    if not directory.complete():
        again = shell_command("batchgen", "resume", directory.root)
        raise OutputError(f"{directory.root} is not complete, and is exported as a whole: {again}")
    _begin(run, out, signer)
    copy = RunDirectory(out)
    done = [read_done(directory, shard) for shard in sorted(committed_shards(directory))]
    exported = [_export_shard(run, copy, one, signer) for one in done]
    for name in ("contact.jpg", "report.html"):
        if (directory.root / name).exists():
            durable.replace(out / name, read_regular(directory.root / name))
    text = dataset_card(run, gather(directory, done), out.resolve().name) + _told(signer)
    durable.replace(out / "README.md", text.encode())
    durable.replace(copy.index, wids_index(copy, exported))
    return sum(one.ok for one in exported)


def _begin(run: Run, out: Path, signer: Signer) -> None:
    """Make the folder, or recognise in it an export of the same run with the same certificate.

    :raises OutputError: it holds something else.
    """
    certificate = hashlib.sha256(signer.chain).hexdigest()
    about = {"run": run.plan.run, "plan": run.plan.fingerprint, "certificate_sha256": certificate}
    text = json.dumps(about, indent=1).encode() + b"\n"
    if out.resolve().is_relative_to(run.directory.root.resolve()):
        raise OutputError(f"{out}: in the folder of the run; name one outside of it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        path = out / _ABOUT
        if not path.is_file() or read_regular(path) != text:
            raise OutputError(
                f"{out}: not empty, and not an export of this run with this certificate. Name a "
                "new or an empty folder"
            )
    for folder in ("data", "metadata"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    durable.replace(out / _ABOUT, text)


def _export_shard(run: Run, copy: RunDirectory, done: Done, signer: Signer) -> Done:
    """Copy a shard, unless it is there; what the index says of the copy."""
    target = copy.data(done.shard)
    table = pq.read_table(run.directory.metadata(done.shard))
    if done.tar is None:
        durable.replace(copy.metadata(done.shard), _parquet(table))
        return done
    if not target.exists():
        begun = target.with_name(f"{target.name}.begun")
        with begun.open("wb") as file:
            files = _sign_tar(run, done, table, file, signer)
            file.flush()
            durable.sync(file)
        durable.replace(copy.metadata(done.shard), _parquet(_with_files(table, files)))
        begun.replace(target)
        durable.sync_folder(target.parent)
    with open_regular(target) as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return replace(done, tar_md5=md5, tar_bytes=target.stat().st_size)


def _sign_tar(
    run: Run, done: Done, table: pa.Table, file: io.BufferedWriter, signer: Signer
) -> dict[str, _File]:
    """Write a shard's tar with signed pictures; key → the signed file.

    :raises DamagedRun: a picture is not the one that its record says.
    """
    source, kind, files = run.directory.data(done.shard), run.job.output.format, {}
    hashes = _hashes(table)
    with (
        tarfile.open(source, "r:") as there,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for member in there:
            stream = there.extractfile(member)
            content = stream.read() if stream else b""
            key, _, ending = member.name.partition(".")
            if ending == kind:
                found = hashlib.sha256(content).hexdigest()
                if hashes.get(key, found) != found:
                    again = remake(run.directory, deep=True)
                    raise DamagedRun(
                        f"{source}: {member.name} is not what its record says. {again}"
                    )
                content = signer.sign(content, kind, member.name)
                files[key] = _File(hashlib.sha256(content).hexdigest(), len(content))
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return files


def _hashes(table: pa.Table) -> dict[str, str]:
    """Key → SHA-256 of the run's pictures; nothing for runs of older versions."""
    if "sha256" not in table.column_names:
        return {}
    rows = zip(table["key"].to_pylist(), table["sha256"].to_pylist(), strict=True)
    return {key: sha256 for key, sha256 in rows if sha256}


def _with_files(table: pa.Table, files: Mapping[str, _File]) -> pa.Table:
    """The records, with hashes and sizes of the signed files."""
    keys = [key if isinstance(key, str) else f"{key:09d}" for key in table["key"].to_pylist()]
    of = [files.get(key) for key in keys]
    columns = {
        "sha256": [one and one.sha256 for one in of],
        "image_bytes": [one.size if one else 0 for one in of],
    }
    for name, values in columns.items():
        if name in table.column_names:
            field = table.schema.field(name)
            place = table.schema.get_field_index(name)
            table = table.set_column(place, field, pa.array(values, field.type))
    return table


def _parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _told(signer: Signer) -> str:
    certificate = hashlib.sha256(signer.chain).hexdigest()
    return (
        "\n## Signatures\n\nEvery picture carries a signed C2PA manifest (Content Credentials), "
        "which says how it was made and names the model. `sha256` and `image_bytes` "
        "of the records are those of the signed files. The file of the certificate has the SHA-256 "
        f"`{certificate}`.\n"
    )
