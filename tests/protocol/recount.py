"""Count a run by its files, sharing no code with batchgen.

Every function returns the list of what is wrong, in words; [] is good.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "no such file"


def tar_hashes(root: Path) -> dict[str, str]:
    """Every visible tar's hash."""
    return {path.name: sha256(path) for path in sorted((root / "data").glob("*.tar"))}


def published(root: Path) -> dict[str, tuple[int, str]]:
    """Identity (inode) and content of every name that says something final."""
    paths = [*root.glob("data/*"), *root.glob("metadata/*"), *root.glob(".batchgen/done/*/*.json")]
    return {
        str(path.relative_to(root)): (path.stat().st_ino, sha256(path)) for path in sorted(paths)
    }


def samples(path: Path) -> dict[int, dict[str, bytes]]:
    """A tar's samples by key: extension → content. Raises if the archive is not whole."""
    data = path.read_bytes()
    if len(data) % 10240 or data[-1024:] != bytes(1024):
        raise ValueError(f"{path.name}: not a whole archive ({len(data)} bytes)")
    found: dict[int, dict[str, bytes]] = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            key, _, extension = member.name.partition(".")
            parts = found.setdefault(int(key), {})
            if extension in parts:
                raise ValueError(f"{path.name}: {member.name} is there twice")
            stream = tar.extractfile(member)
            parts[extension] = stream.read() if stream else b""
    return found


def wrong_in_view(root: Path, reference: Mapping[str, str]) -> list[str]:
    """What is wrong with the published files, at any moment of a run.

    :param reference: tar hashes of an undisturbed run.
    """
    hashes = tar_hashes(root)
    strange = [name for name in hashes if hashes[name] != reference.get(name, "no such tar")]
    wrong = [f"data/{name} is not the undisturbed run's" for name in strange]
    for path in sorted((root / "metadata").glob("*.parquet")):
        wrong += _wrong_metadata(path, root / "data" / f"{path.stem}.tar")
    paths = [path for folder in ("data", "metadata") for path in (root / folder).iterdir()]
    others = [path.name for path in paths if not path.stem.isdigit()]
    return wrong + [f"another file is among the published ones: {name}" for name in others]


def _wrong_metadata(path: Path, tar: Path) -> list[str]:
    try:
        rows = pq.read_table(path, columns=["index", "outcome"], use_threads=False).to_pylist()
    except Exception as error:  # noqa: BLE001 - unreadable in whatever way
        return [f"metadata/{path.name} cannot be read: {error}"]
    good = sorted(row["index"] for row in rows if row["outcome"] == "ok")
    try:
        there = sorted(samples(tar)) if tar.exists() else []
    except (ValueError, tarfile.TarError) as error:
        return [str(error)]
    counts = f"{len(good)} good pictures, and the tar beside it holds {len(there)}"
    return [] if good == there else [f"metadata/{path.name} speaks of {counts}"]


def wrong_at_end(
    root: Path,
    prompts: Sequence[str],
    failures: frozenset[int] = frozenset(),
    *,
    swept: bool = True,
) -> list[str]:
    """What is wrong with a finished run of these prompts, one picture a row.

    :param failures: keys that cannot be made.
    :param swept: nobody works on the run any more, so no files of attempts may be left.
    """
    wrong: list[str] = []
    found: Counter[int] = Counter()
    rows = records(root)
    hashes = {row["index"]: row["sha256"] for row in rows}
    for path in sorted((root / "data").glob("*.tar")):
        try:
            read = samples(path)
        except (ValueError, tarfile.TarError) as error:
            return [str(error)]
        for key, parts in read.items():
            found[key] += 1
            wrong += _wrong_sample(key, parts, prompts)
            if hashlib.sha256(parts.get("jpg", b"")).hexdigest() != hashes.get(key):
                wrong.append(f"picture {key} is not the one whose hash its record has")
    wrong += _wrong_counts(rows, found, prompts, failures)
    if swept:
        left = root.glob(".batchgen/partial/*/*")
        wrong += [f"{path.name} is left of an attempt" for path in left]
    return wrong + wrong_names(root)


def _wrong_counts(
    rows: Sequence[Mapping[str, Any]],
    found: Counter[int],
    prompts: Sequence[str],
    failures: frozenset[int],
) -> list[str]:
    """What is wrong with the records (`rows`) and with how often each picture is in a tar."""
    wrong = []
    counted = Counter(row["index"] for row in rows)
    good = {row["index"] for row in rows if row["outcome"] == "ok"}
    for key, prompt in enumerate(prompts):
        if counted[key] != 1:
            wrong.append(f"picture {key} has {counted[key]} records")
        if found[key] != (key in good):
            outcome = "ok" if key in good else "failed"
            wrong.append(f"picture {key} is in {found[key]} tars, and its record says {outcome}")
        if (key in failures) == (key in good):
            expected = "failed" if key in failures else "been made"
            wrong.append(f"picture {key} ({prompt}) should have {expected}")
    unplanned = [key for key in {*found, *counted} if not 0 <= key < len(prompts)]
    return wrong + [f"picture {key} was never planned" for key in unplanned]


def records(root: Path) -> list[dict[str, Any]]:
    """Every published record."""
    return [
        row
        for path in sorted((root / "metadata").glob("*.parquet"))
        for row in pq.read_table(path, use_threads=False).to_pylist()
    ]


# Of an audited picture: how it was made, whether it was measured, PSNR and SSIM.
Audit = tuple[str, str, float | None, float | None]


def audits(root: Path) -> dict[int, Audit]:
    """What the published records say of audited pictures, by key."""
    return {
        row["index"]: (row["path"], row["audit"], row["psnr"], row["ssim"])
        for row in records(root)
        if row["audit"]
    }


def measured(found: Mapping[int, Audit]) -> list[int]:
    """Keys of the pictures that were measured."""
    return [key for key, (_, audit, _, _) in found.items() if audit == "measured"]


def wrong_audits(root: Path, reference: Mapping[int, Audit]) -> list[str]:
    """Audited pictures of a finished run that differ from those of an undisturbed one.

    A group that two workers died of is made picture by picture, without an audit.
    """
    found = audits(root)
    wrong = [f"{sorted(found)} were audited"] if found.keys() != reference.keys() else []
    for key, audit in found.items():
        careful = audit[:2] == ("solo", "not measured")
        if not careful and audit != reference.get(key):
            wrong.append(f"the audit says {audit} of picture {key}, not {reference.get(key)}")
    return wrong


def redone_groups(begins: Sequence[Mapping[str, int]], batch_size: int) -> int:
    """How many groups were begun again, counted from the begins of all attempts.

    :param batch_size: pictures of a group; all are of one size.
    """
    tries = {(begin["shard"], begin["attempt"], begin["at"] // batch_size) for begin in begins}
    return len(tries) - len({(shard, group) for shard, _, group in tries})


def _wrong_sample(key: int, parts: Mapping[str, bytes], prompts: Sequence[str]) -> list[str]:
    if sorted(parts) != ["jpg", "json", "txt"]:
        return [f"picture {key} has the members {sorted(parts)}"]
    about = json.loads(parts["json"])
    wanted = prompts[key] if key < len(prompts) else None
    right = (
        about["key"] == f"{key:09d}"
        and about["prompt"] == parts["txt"].decode() == wanted
        and parts["jpg"][:2] == b"\xff\xd8"
    )
    wrong = f"picture {key}: its members are not of one picture, or not of its row"
    return [] if right else [wrong]


def wrong_names(root: Path) -> list[str]:
    """What is wrong with the index and the commits of a finished run, held against its files."""
    if not (root / "index.json").exists():
        return ["index.json is missing"]
    wrong = []
    index = json.loads((root / "index.json").read_text())["shardlist"]
    listed = {one["url"]: (one["nsamples"], one["filesize"], one["md5sum"]) for one in index}
    there = {}
    for path in sorted((root / "data").glob("*.tar")):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        there[f"data/{path.name}"] = (len(samples(path)), path.stat().st_size, md5)
    if listed != there:
        wrong.append("index.json does not list the tars that are there")
    commits = {path.stem for path in root.glob(".batchgen/done/*/*.json")}
    if commits != {path.stem for path in (root / "metadata").glob("*.parquet")}:
        wrong.append(f"commits and metadata differ: {sorted(commits)}")
    for path in root.glob(".batchgen/done/*/*.json"):
        done = json.loads(path.read_text())
        if done["tar"] and sha256(root / "data" / done["tar"]) != done["tar_sha256"]:
            wrong.append(f"the commit of shard {path.stem} has the hash of another tar")
        if sha256(root / "metadata" / f"{path.stem}.parquet") != done["metadata_sha256"]:
            wrong.append(f"the commit of shard {path.stem} has the hash of other metadata")
    return wrong
