"""The protocol with one of its rules broken: a few lines are replaced in the worker's process.

A test that passes on these proves nothing. test_mutants.py shows that each is caught, and where.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from batchgen import durable, generations
from batchgen.dataset import finalize_run, wids
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


def list_unsynced() -> None:
    """A list of pictures is not synced before a plan names it."""
    _skip_sync("keys-")


def plan_unsynced() -> None:
    """A plan is not synced before it has its name."""
    _skip_sync("plan-")


def _skip_sync(beginning: str) -> None:
    sync = durable.sync

    def sometimes(file):
        if not Path(str(file.name)).name.lstrip(".").startswith(beginning):
            sync(file)

    replace(durable, "sync", sometimes)


def rows_unsynced() -> None:
    """A converted table is not synced before a plan names it."""
    fsync = os.fsync

    def sometimes(descriptor: int) -> None:
        if "/.manifest-" not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            fsync(descriptor)

    os.fsync = sometimes


def folders_unsynced() -> None:
    """The folders of new shards may not be on the disk when these are published."""
    sync = durable.sync_folder
    new = ("claims", "partial", "done")
    replace(durable, "sync_folder", lambda folder: None if folder.name in new else sync(folder))


def plan_before_list() -> None:
    """A plan has its name before the list that it names is there."""
    create, later = durable.create, []

    def other_order(path: Path, data: bytes) -> bool:
        if path.name.startswith("keys-"):
            later.append((path, data))
            return True
        made = create(path, data)
        while later and path.name.startswith("plan-"):
            create(*later.pop())
        return made

    replace(durable, "create", other_order)


def winner_unchecked() -> None:
    """Whoever tries to begin a generation believes to have begun it."""
    create = durable.create

    def unchecked(path: Path, data: bytes) -> bool:
        return create(path, data) or path.name.startswith("plan-")

    replace(durable, "create", unchecked)


def completed_first() -> None:
    """A run is completed before it is asked whether a command was given to complete it."""
    goes_on = generations._goes_on
    replace(generations, "_goes_on", lambda run, same: (finalize_run(run), goes_on(run, same))[1])


def index_of_another() -> None:
    """An index names the generation that is the last on the disk, not the one of its shards."""
    index = wids.run_index
    replace(wids, "run_index", lambda at, done, _: index(at, done, at.last_generation()))


OF_GENERATIONS = {
    "list-unsynced": list_unsynced,
    "plan-unsynced": plan_unsynced,
    "rows-unsynced": rows_unsynced,
    "folders-unsynced": folders_unsynced,
    "plan-before-list": plan_before_list,
    "winner-unchecked": winner_unchecked,
    "completed-first": completed_first,
    "index-of-another": index_of_another,
}
