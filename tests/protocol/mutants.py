"""The protocol with one of its rules broken: a few lines are replaced in the worker's process.

A test that passes on these proves nothing. test_mutants.py shows that each is caught, and where.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from batchgen import durable
from batchgen.shard import commit, journal, partial_shard


def replace(owner: Any, name: str, new: Callable[..., Any]) -> None:
    """Put `new` in the place of `owner.name` wherever batchgen looks it up.

    :param owner: a module, whose functions others may have imported by name, or a class.
    :raises AssertionError: there is no such function, or nothing calls it by this name.
    """
    old = vars(owner)[name]
    modules = _modules()
    holders = [one for one in modules if vars(one).get(name) is old] or [owner]
    called = (name in _names(str(module.__file__)) for module in modules)
    assert any(called), f"nothing calls {name}"
    for holder in holders:
        setattr(holder, name, new)
    assert vars(owner)[name] is new


def read_names() -> None:
    """Read once what `replace` looks up in the sources: a forked worker need not read it again."""
    for module in _modules():
        _names(str(module.__file__))


def _modules() -> list[ModuleType]:
    return [module for key, module in sys.modules.items() if key.split(".")[0] == "batchgen"]


@cache
def _names(file: str) -> frozenset[str]:
    """Every name that a module's code looks up, in itself or in another object."""
    codes, names = [compile(Path(file).read_text(), file, "exec")], set[str]()
    while codes:
        code = codes.pop()
        codes += [const for const in code.co_consts if isinstance(const, CodeType)]
        if code.co_name != "<module>":
            names.update(code.co_names)
    return frozenset(names)


def no_fsync() -> None:
    """Tar files are not synced before the commit names them."""
    sync = durable.sync
    replace(durable, "sync", lambda file: None if str(file.name).endswith(".tar") else sync(file))


def no_checksum() -> None:
    """A line of the journal is believed however it ends, and no checksum is compared."""

    def read_journal(path: Path) -> list[journal.Entry]:
        lines = path.read_bytes().splitlines() if path.exists() else []
        return [journal.Entry(**json.loads(line.split(b"}")[0] + b"}")) for line in lines]

    replace(journal, "read_journal", read_journal)
    replace(partial_shard, "_digest", lambda _samples, _lines: "")


def metadata_first() -> None:
    """The metadata gets its published name before the tar."""

    def roll_forward(directory, shard):
        done = commit.read_done(directory, shard)
        parquet, tar = (directory.partial(shard, done.attempt, kind) for kind in ("parquet", "tar"))
        commit._publish(directory, parquet, directory.metadata(shard))
        if done.tar is not None:
            commit._publish(directory, tar, directory.data(shard))
        commit.sweep(directory, shard)

    replace(commit, "roll_forward", roll_forward)


def no_journal() -> None:
    """The journal stays empty: every attempt begins at the shard's first picture."""
    replace(partial_shard.PartialShard, "_say", lambda self, *entries: None)


def rename_for_link() -> None:
    """A name is given by rename, which replaces: the last attempt wins, not the first."""

    def link(source, target):
        source.replace(target)
        durable.sync_folder(target.parent)
        return True

    replace(durable, "link", link)


def commit_unsynced() -> None:
    """The roll-forward trusts a commit whose name may not be on the disk yet."""
    sync = durable.sync_folder
    replace(durable, "sync_folder", lambda folder: None if "done" in folder.parts else sync(folder))


MUTANTS = {
    "no-fsync": no_fsync,
    "no-checksum": no_checksum,
    "metadata-first": metadata_first,
    "no-journal": no_journal,
    "rename-for-link": rename_for_link,
    "commit-unsynced": commit_unsynced,
}
