"""Counts a run from its files, by key. Shares nothing with batchgen: tarfile, pyarrow, json and hashlib only.

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
    """What a reader would see that is not so, at any moment of a run; `reference`: an undisturbed run's tar hashes."""
    strange = [
        name
        for name, found in tar_hashes(root).items()
        if found != reference.get(name, "no such tar")
    ]
    wrong = [f"data/{name} is not the undisturbed run's" for name in strange]
    for path in sorted((root / "metadata").glob("*.parquet")):
        try:
            rows = pq.read_table(path, columns=["key", "outcome"], use_threads=False).to_pylist()
        except Exception as error:  # noqa: BLE001 - unreadable in whatever way
            wrong.append(f"metadata/{path.name} cannot be read: {error}")
            continue
        good = sorted(row["key"] for row in rows if row["outcome"] == "ok")
        tar = root / "data" / f"{path.stem}.tar"
        try:
            there = sorted(samples(tar)) if tar.exists() else []
        except (ValueError, tarfile.TarError) as error:
            wrong.append(str(error))
            continue
        if good != there:
            wrong.append(
                f"metadata/{path.name} speaks of {len(good)} good pictures, and the tar beside it holds {len(there)}"
            )
    strangers = [
        path.name
        for folder in ("data", "metadata")
        for path in (root / folder).iterdir()
        if not path.stem.isdigit()
    ]
    return wrong + [f"a stranger lies among the published files: {name}" for name in strangers]


def wrong_at_end(
    root: Path,
    prompts: Sequence[str],
    failures: frozenset[int] = frozenset(),
    *,
    swept: bool = True,
) -> list[str]:
    """What is wrong with a finished run of these prompts, one picture a row.

    :param failures: keys that cannot be made.
    :param swept: nobody works on it any more, so that nothing may be left of shards in the making.
    """
    wrong: list[str] = []
    found: Counter[int] = Counter()
    for path in sorted((root / "data").glob("*.tar")):
        try:
            read = samples(path)
        except (ValueError, tarfile.TarError) as error:
            return [str(error)]
        for key, parts in read.items():
            found[key] += 1
            wrong += _wrong_sample(key, parts, prompts)
    rows = records(root)
    counted = Counter(row["key"] for row in rows)
    good = {row["key"] for row in rows if row["outcome"] == "ok"}
    for key, prompt in enumerate(prompts):
        if counted[key] != 1:
            wrong.append(f"picture {key} has {counted[key]} records")
        if found[key] != (key in good):
            wrong.append(
                f"picture {key} is in {found[key]} tars, and its record says {'ok' if key in good else 'failed'}"
            )
        if (key in failures) == (key in good):
            wrong.append(
                f"picture {key} ({prompt}) should have {'failed' if key in failures else 'been made'}"
            )
    wrong += [
        f"picture {key} was never planned"
        for key in {*found, *counted}
        if not 0 <= key < len(prompts)
    ]
    left = (
        [
            f"{path.name} is left of a shard in the making"
            for path in root.glob(".batchgen/partial/*/*")
        ]
        if swept
        else []
    )
    return wrong + left + _wrong_names(root)


def records(root: Path) -> list[dict[str, Any]]:
    """Every published record."""
    return [
        row
        for path in sorted((root / "metadata").glob("*.parquet"))
        for row in pq.read_table(path, use_threads=False).to_pylist()
    ]


def redone_groups(begins: Sequence[Mapping[str, int]], batch_size: int) -> int:
    """How many groups were begun again, from the begins of all attempts; groups are `batch_size` pictures of one size."""
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
    return (
        [] if right else [f"picture {key}: its members are not of one picture, or not of its row"]
    )


def _wrong_names(root: Path) -> list[str]:
    wrong = []
    tars = sorted((root / "data").glob("*.tar"))
    if not (root / "index.json").exists():
        return ["index.json is missing"]
    index = json.loads((root / "index.json").read_text())["shardlist"]
    listed = {
        shard["url"]: (shard["nsamples"], shard["filesize"], shard["md5sum"]) for shard in index
    }
    there = {
        f"data/{path.name}": (
            len(samples(path)),
            path.stat().st_size,
            hashlib.md5(path.read_bytes()).hexdigest(),
        )
        for path in tars
    }
    if listed != there:
        wrong.append("index.json does not list the tars that are there")
    commits = {path.stem for path in root.glob(".batchgen/done/*/*.json")}
    if commits != {path.stem for path in (root / "metadata").glob("*.parquet")}:
        wrong.append(f"commits and metadata differ: {sorted(commits)}")
    for path in root.glob(".batchgen/done/*/*.json"):
        done = json.loads(path.read_text())
        if done["tar"] and sha256(root / "data" / done["tar"]) != done["tar_sha256"]:
            wrong.append(f"the commit of shard {path.stem} vouches for another tar")
        if sha256(root / "metadata" / f"{path.stem}.parquet") != done["metadata_sha256"]:
            wrong.append(f"the commit of shard {path.stem} vouches for other metadata")
    return wrong
