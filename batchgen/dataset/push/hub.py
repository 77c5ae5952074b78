"""A dataset repository of the Hugging Face hub as a destination.

A commit is seen whole or not at all, so a shard's tar and its records appear together. The hub
names every file by its SHA-256, and small ones by their git hash: what is there is known without
reading it back. What a push that was killed has sent without committing it is not sent again.

A repository that is not there is made, a private one. Who may see it is decided on the hub.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any
from urllib.parse import unquote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import EntryNotFoundError

from batchgen.dataset.push.item import Item
from batchgen.errors import InputError, Unreachable
from batchgen.regular_file import read_regular
from batchgen.remote import reached, shown

_URL = re.compile(r"^hf://datasets/([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.*))?$")
# Shards in a commit. The hub asks for few commits, and a killed one is sent again.
_AT_ONCE = 50


class Hub:
    """A folder of a dataset repository, in one of its revisions.

    :raises InputError: the URL names none.
    """

    def __init__(self, url: str) -> None:
        match = _URL.match(url)
        if not match:
            raise InputError(
                f"{shown(url)}: expected hf://datasets/ORG/NAME, with @REVISION and /FOLDER where "
                "they are needed"
            )
        self._url, self._repo = url, match[1]
        self._revision = unquote(match[2]) if match[2] else None
        self._folder = (match[3] or "").strip("/")
        self._hub: Any = HfApi()
        self._there: dict[str, Any] = {}

    def look(self) -> set[str]:
        """List what is there, and return the names of its files. Makes what is missing."""
        names = {"repo_id": self._repo, "repo_type": "dataset"}
        with reached(self._url):
            if not self._hub.repo_exists(**names):
                self._hub.create_repo(**names, private=True, exist_ok=True)
            if self._revision and not self._hub.revision_exists(**names, revision=self._revision):
                self._hub.create_branch(**names, branch=self._revision, exist_ok=True)
            self._there = {self._name(file.path): file for file in self._tree()}
        return set(self._there)

    def difference(self, item: Item) -> str | None:
        """How the file of that name differs: "" if it is the same, None if there is none."""
        file = self._there.get(item.name)
        if file is None:
            return None
        if file.size != item.bytes:
            return f"{file.size:,} bytes there, {item.bytes:,} here"
        return "" if _same(item, file) else "of the same size, and another content"

    def put(self, groups: Sequence[Sequence[Item]], sent: Callable[[Sequence[Item]], None]) -> None:
        """Send groups of files, the whole of some groups in each commit.

        :param sent: is told of every group that is there.
        :raises DamagedRun: a file here is not what was committed.
        :raises Unreachable: the hub does not take it, or has kept something else.
        """
        rest = iter(groups)
        while together := list(islice(rest, _AT_ONCE)):
            items = [item for group in together for item in group]
            for item in items:
                item.check()
            first, last = items[0].name, items[-1].name
            added = [CommitOperationAdd(self._path(item.name), str(item.path)) for item in items]
            with reached(self._url):
                self._commit(added, f"{first} to {last}" if len(items) > 1 else first)
                self._compare(items)
            for group in together:
                sent(group)

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""
        if self._there.pop(name, None):
            with reached(self._url):
                self._commit([CommitOperationDelete(self._path(name))], f"without {name}")

    def tidy(self) -> None:
        """Nothing: what was not committed cannot be seen."""

    def _commit(self, operations: Sequence[object], message: str) -> None:
        self._hub.create_commit(
            self._repo,
            operations,
            commit_message=message,
            repo_type="dataset",
            revision=self._revision,
        )

    def _compare(self, items: Sequence[Item]) -> None:
        found = self._hub.get_paths_info(
            self._repo,
            [self._path(item.name) for item in items],
            repo_type="dataset",
            revision=self._revision,
        )
        self._there |= {self._name(file.path): file for file in found}
        for item in items:
            if self.difference(item) != "":
                raise Unreachable(
                    f"{shown(self._url)}: {item.name} is not there as it was sent. Type the "
                    "command again with --replace"
                )

    def _tree(self) -> Iterator[Any]:
        try:
            for entry in self._hub.list_repo_tree(
                self._repo,
                self._folder or None,
                recursive=True,
                repo_type="dataset",
                revision=self._revision,
            ):
                if hasattr(entry, "blob_id"):  # folders have none
                    yield entry
        except EntryNotFoundError:  # nothing is in the folder yet
            return

    def _path(self, name: str) -> str:
        return f"{self._folder}/{name}" if self._folder else name

    def _name(self, path: str) -> str:
        return path.removeprefix(f"{self._folder}/") if self._folder else path


def _same(item: Item, file: Any) -> bool:
    if file.lfs:
        return bool(file.lfs.sha256 == item.sha256)
    content = read_regular(item.path)
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
    return bool(file.blob_id == blob.hexdigest())
