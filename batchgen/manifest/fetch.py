"""Manifests behind URLs, brought here once, when they are planned.

A run keeps what was fetched: workers need neither network nor credentials, and what changes there
later changes no picture. Messages name the URLs.
"""

from __future__ import annotations

import glob
import posixpath
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec import AbstractFileSystem

from batchgen import durable
from batchgen.errors import BatchgenError, ManifestError, shell_command
from batchgen.manifest.find import ACCEPTED, find_files, kind_of, refuse_unknown
from batchgen.remote import is_url, local_path, open_place, reached, scheme_of, shown

# What a store tells of a file that is another when the file was written again.
_STAMPS = ("size", "ETag", "LastModified", "mtime", "generation", "blob_id", "created")


@dataclass(frozen=True, slots=True)
class Found:
    """The files of a manifest, here."""

    files: list[Path]
    # What to call each of them.
    names: list[str]
    # Whether they were fetched, and belong to whoever asked for them.
    fetched: bool = False

    @contextmanager
    def by_name(self) -> Iterator[None]:
        """Let errors inside name what was fetched by its URL."""
        try:
            yield
        except BatchgenError as error:
            text = str(error)
            for file, name in zip(self.files, self.names, strict=True) if self.fetched else ():
                text = text.replace(str(file), name)
            error.args = (text,)
            raise

    def drop(self) -> None:
        """Remove what was fetched: its rows have been written elsewhere."""
        for file in self.files if self.fetched else ():
            file.unlink()


def gather_files(words: Sequence[str | Path], folder: Path) -> Found:
    """Find a manifest's files, and fetch them if they are behind URLs.

    :param words: files, globs or folders, of this machine or all of them URLs.
    :param folder: where to files are fetched; not touched otherwise.
    :raises ManifestError: there is no such file, or it can be no manifest; see `find_files`.
    :raises InputError: nothing here reaches such a URL.
    :raises Unreachable: a place does not answer, or refuses.
    """
    names = [local_path(str(word)) for word in words]
    urls = [name for name in names if is_url(name)]
    if not urls:
        files = find_files(names)
        return Found(files, list(map(str, files)))
    if other := [name for name in names if not is_url(name)]:
        raise ManifestError(
            f"{shown(urls[0])} and {other[0]}: a manifest is either here or behind URLs: download "
            "the ones, or copy the others there"
        )
    remote = _listed(urls)
    if len({kind_of(Path(one.name)) for one in remote}) > 1:
        raise ManifestError(
            f"{remote[0].name} and others: files of one manifest must be of one kind: Parquet, "
            "CSV, JSON lines, text or Arrow"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    files = [one.fetch(folder, number) for number, one in enumerate(remote)]
    durable.sync_folder(folder)
    found = Found(files, [one.name for one in remote], fetched=True)
    with found.by_name():
        find_files(files)
    return found


def names_of(words: Sequence[str]) -> list[str]:
    """The names that a manifest's files behind URLs have in its plan; nothing is fetched.

    :raises ManifestError: there is no such file.
    :raises InputError: nothing here reaches such a URL.
    :raises Unreachable: a place does not answer, or refuses.
    """
    return [one.name for one in _listed(words)]


def _listed(urls: Sequence[str]) -> list[_Remote]:
    """The files behind URLs, each once, in the order of their rows."""
    found = {one.name: one for url in urls for one in _expand(url)}
    return [found[name] for name in sorted(found)]


@dataclass(frozen=True, slots=True)
class _Remote:
    """A file behind a URL."""

    fs: AbstractFileSystem
    path: str
    url: str

    @property
    def name(self) -> str:
        """The URL for people. Rows are numbered in the order of the names."""
        return shown(self.url)

    def fetch(self, folder: Path, number: int) -> Path:
        """Copy it here, under a name that no other submit takes.

        :raises ManifestError: it changed meanwhile.
        """
        suffix = "".join(Path(self.name).suffixes[-2:])
        suffix = suffix if suffix.endswith(".gz") else Path(self.name).suffix
        file = folder / f"{number:06d}-{uuid.uuid4().hex[:12]}{suffix}"
        with reached(self.url):
            before = self._stamp()
            self.fs.get_file(self.path, str(file))
            same = before == self._stamp()
        if not same or before.get("size") not in (None, file.stat().st_size):
            raise ManifestError(
                f"{self.name}: changed while it was fetched; wait until it is written, then try "
                "again"
            )
        with file.open("rb") as stream:
            durable.sync(stream)
        return file

    def _stamp(self) -> dict[str, Any]:
        self.fs.invalidate_cache()
        info = self.fs.info(self.path)
        return {key: info[key] for key in _STAMPS if key in info}


def _expand(url: str) -> list[_Remote]:
    """Find the files that a URL names.

    :raises ManifestError: there are none, or they can be no manifest.
    """
    fs, path = open_place(url)
    with reached(url):
        fs.invalidate_cache()
        if scheme_of(url) in ("http", "https"):  # a ? begins a query, and folders have no listing
            paths = [path]
        elif glob.has_magic(path):
            paths = [found for found, info in fs.glob(path, detail=True).items() if _is_file(info)]
            if not paths:
                raise ManifestError(f"{shown(url)}: no file matches this glob")
        elif fs.isdir(path):
            paths = _in_folder(fs, path, shown(url))
        elif fs.isfile(path):
            paths = [path]
        else:
            raise ManifestError(f"{shown(url)}: no such file or folder")
    remote = [_Remote(fs, found, fs.unstrip_protocol(found)) for found in paths]
    for one in remote:
        refuse_unknown(Path(posixpath.basename(one.name)), one.name)
    return remote


def _in_folder(fs: AbstractFileSystem, folder: str, name: str) -> list[str]:
    """Find the manifest files directly inside of a folder, as `find_files` does.

    :raises ManifestError: there are none.
    """
    inside = [info["name"] for info in fs.ls(folder, detail=True) if _is_file(info)]
    kinds = {
        path: kind_of(Path(path)) for path in inside if posixpath.basename(path)[0] not in "._"
    }
    tables = [path for path, kind in kinds.items() if kind not in ("", "txt")]
    texts = [path for path, kind in kinds.items() if kind == "txt"]
    if not tables and not texts:
        every = shell_command(f"{name.rstrip('/')}/**/*.parquet")
        raise ManifestError(
            f"{name}: no manifest files directly inside; for those in its subfolders give {every}. "
            f"{ACCEPTED}"
        )
    return tables or texts


def _is_file(info: dict[str, Any]) -> bool:
    return bool(info["type"] == "file")
