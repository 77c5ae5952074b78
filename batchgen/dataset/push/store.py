"""A destination that fsspec reaches: object stores, folders, other machines.

Nobody there ever sees half a file. An object store shows an object once it is whole. Elsewhere a
file is written under a name with a leading dot, which no reader's glob finds, and then renamed.

What is there is asked of the destination alone; nothing about it is remembered here. S3 and Google
Cloud Storage tell an MD5 with every listing: where it is the file's, the file is there. S3 is asked
for the SHA-256 with which it took an object where the MD5 says nothing, as for objects that it
encrypts. Otherwise, as for folders, and for objects that another program sent in parts of another
size, the file is read back and hashed.
"""

from __future__ import annotations

import base64
import hashlib
import posixpath
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from batchgen import durable
from batchgen.dataset.push.item import Item
from batchgen.errors import InputError, Unreachable
from batchgen.remote import open_place, reached, scheme_of, shown

# Here a file appears whole, or not at all.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory"}
_READ_ONLY = {"http", "https", "github", "git", "zip", "tar", "data"}
# Shards that are sent at once: one stream seldom fills a line.
_AT_ONCE = 4
_BLOCK = 4 << 20
# S3 takes a file in at most 10,000 parts.
_PART_BYTES, _MOST_PARTS = 50 << 20, 10_000


class Store:
    """A folder of any file system.

    :raises InputError: it cannot be a destination.
    """

    def __init__(self, url: str) -> None:
        if scheme_of(url) in _READ_ONLY:
            raise InputError(
                f"{shown(url)}: nothing can be written there; expected a folder, or a URL as "
                "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or hf://datasets/ORG/NAME"
            )
        self._url = url
        self._fs, self._root = open_place(url)
        self._local = isinstance(self._fs, LocalFileSystem)
        self._whole = scheme_of(url) in _OBJECT_STORES
        if self._local and Path(self._root, ".batchgen").exists():
            raise InputError(f"{shown(url)}: is a run itself; name a folder for the copy")
        self._there: dict[str, dict[str, Any]] = {}

    def look(self) -> set[str]:
        """List what is there, and return the names of its files."""
        with reached(self._url):
            self._fs.invalidate_cache()
            for folder in ("", "data/", "metadata/"):
                for info in self._list(folder):
                    if info["type"] == "file":
                        self._there[f"{folder}{posixpath.basename(info['name'])}"] = info
        return set(self._there)

    def _list(self, folder: str) -> list[dict[str, Any]]:
        try:
            listed: list[dict[str, Any]] = self._fs.ls(self._path(folder).rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        return listed

    def difference(self, item: Item) -> str | None:
        """How the file of that name differs: "" if it is the same, None if there is none."""
        info = self._there.get(item.name)
        if info is None:
            return None
        if info["size"] != item.bytes:
            return f"{info['size']:,} bytes there, {item.bytes:,} here"
        with reached(self._url):
            return "" if self._same(item, info) else "of the same size, and another content"

    def put(self, groups: Sequence[Sequence[Item]], sent: Callable[[Sequence[Item]], None]) -> None:
        """Send groups of files, a few groups at once, the files of each in order.

        :param sent: is told of every group that is there, in this thread.
        :raises DamagedRun: a file here is not what was committed.
        :raises Unreachable: the destination does not take it, or has kept something else.
        """
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="push") as pool:
            try:
                pending = {pool.submit(self._put_group, group): group for group in groups}
                for future in as_completed(pending):
                    future.result()
                    sent(pending[future])
            finally:
                pool.shutdown(cancel_futures=True)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        if self._there.pop(name, None):
            with reached(self._url):
                self._fs.rm_file(self._path(name))

    def tidy(self) -> None:
        """Remove what pushes that were killed have left half written."""
        for name in sorted(self._there):
            if posixpath.basename(name).startswith(".") and name.endswith(".tmp"):
                self.remove(name)

    def _put_group(self, group: Sequence[Item]) -> None:
        for item in group:
            item.check()
            with reached(self._url):
                self._send(item)
                self._fs.invalidate_cache()
                info = self._fs.info(self._path(item.name))
                same = info["size"] == item.bytes and self._same(item, info)
            if not same:
                raise Unreachable(
                    f"{shown(self._url)}/{item.name}: what has arrived there is not what was sent. "
                    "Type the command again with --replace"
                )
            self._there[item.name] = info

    def _send(self, item: Item) -> None:
        target = self._path(item.name)
        if self._whole:
            self._fs.put_file(str(item.path), target, **self._how(item))
            return
        folder = posixpath.dirname(target)
        temporary = f"{folder}/.{posixpath.basename(target)}.{uuid.uuid4().hex}.tmp"
        self._fs.makedirs(folder, exist_ok=True)
        self._fs.put_file(str(item.path), temporary)
        if self._local:
            with Path(temporary).open("rb") as file:
                durable.sync(file)
            Path(temporary).replace(target)
            durable.sync_folder(Path(folder))
        else:
            if self._fs.exists(target):  # not every rename replaces
                self._fs.rm_file(target)
            self._fs.mv(temporary, target)

    def _how(self, item: Item) -> dict[str, Any]:
        """What S3 is told besides: it refuses what does not arrive with this hash."""
        if not self._is_s3():
            return {}
        told = {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": _base64(item.sha256)}
        whole = {} if _in_parts(item.bytes) else told
        return {"chunksize": _part_bytes(item.bytes), **whole}

    def _same(self, item: Item, info: dict[str, Any]) -> bool:
        """Whether a file of the same size has the same content."""
        if told := info.get("md5Hash"):  # Google Cloud Storage
            return base64.b64decode(told).hex() == item.md5()
        if self._is_s3():
            told = str(info.get("ETag", "")).strip('"')
            in_parts = _in_parts(item.bytes)
            if told == (item.md5_of_parts(_part_bytes(item.bytes)) if in_parts else item.md5()):
                return True
            if sha256 := self._s3_sha256(item.name):
                return sha256 == _base64(item.sha256)
        return self._read_back(item.name) == item.sha256

    def _s3_sha256(self, name: str) -> str:
        """The SHA-256 that S3 has of a whole object; "" if it has none."""
        bucket, key, _ = self._fs.split_path(self._path(name))
        told = self._fs.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        sha256 = str(told.get("ChecksumSHA256", ""))
        return "" if "-" in sha256 else sha256  # that of an object in parts names their number

    def _read_back(self, name: str) -> str:
        digest = hashlib.sha256()
        with self._fs.open(self._path(name), "rb", block_size=_BLOCK) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
        return digest.hexdigest()

    def _is_s3(self) -> bool:
        return scheme_of(self._url) in ("s3", "s3a")

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if self._root else name


def _base64(hexadecimal: str) -> str:
    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def _in_parts(size: int) -> bool:
    """Whether s3fs sends a file in parts."""
    return size >= min(5 << 30, 2 * _part_bytes(size))


def _part_bytes(size: int) -> int:
    return max(_PART_BYTES, -(-size // _MOST_PARTS))
