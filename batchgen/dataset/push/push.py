"""Send a run's dataset to where readers get it, as it is made or when it is complete.

Shards go first, as they are published, each one's tar before its records, as in the run: who sees
`metadata/N.parquet` can open `data/N.tar`. When the run is complete and all shards are there, the
statistics, the contact sheet, the report and the card follow, and `index.json` last: a dataset
with an index has everything that the index lists. On the hub each step is one commit.

The destination is the truth. It is asked what it has, and nothing is remembered here: a push that
was killed anywhere, or made on another machine, is continued by the same command. What is there
with the same content is not sent again. What is there with another content is refused; only card,
index and what belongs to them are replaced, which a later generation of the run renews.

Not promised: that nobody else writes to the same place meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from batchgen.checked_json import unseal
from batchgen.dataset.push.hub import Hub
from batchgen.dataset.push.item import Item, shard_items, summary_items, total_bytes
from batchgen.dataset.push.store import Store
from batchgen.errors import DamagedRun, OutputError, Unreachable, counted, shell_command
from batchgen.remote import local_path, scheme_of, shown
from batchgen.run import RunDirectory
from batchgen.shard import committed_shards, published_shards, read_done, remake
from batchgen.units import data_size

# Seconds between two looks for new shards, and after the destination did not answer.
POLL_S, RETRY_S = 10.0, 60.0
# Files that a message names.
_MANY = 3
_SHARD_FILE = re.compile(r"^(data/\d{6,}\.tar|metadata/\d{6,}\.parquet)$")

Tell = Callable[[str], None]


def _nobody(_: str) -> None: ...


class Destination(Protocol):
    """Where a dataset goes."""

    def look(self) -> set[str]:
        """List what is there, and return the names of its files."""

    def difference(self, item: Item) -> str | None:
        """How the file of that name differs: "" if it is the same, None if there is none."""

    def put(self, groups: Sequence[Sequence[Item]], sent: Callable[[Sequence[Item]], None]) -> None:
        """Send groups of files, and compare what is there afterwards."""

    def remove(self, name: str) -> None:
        """Take a file away, if it is there."""

    def tidy(self) -> None:
        """Remove what pushes that were killed have left half written."""


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push has done."""

    # Whether the whole dataset is there, with its index.
    complete: bool
    # Shards that are there now, and how many of them this push has sent.
    shards: int
    sent: int
    # Of what it has sent, card and index included.
    sent_bytes: int


def push_run(
    directory: RunDirectory, url: str, *, follow: bool, replace: bool, tell: Tell = _nobody
) -> Pushed:
    """Send what is published of a run, and its card and index if the run is complete.

    :param url: a folder, `hf://datasets/ORG/NAME[@REVISION][/FOLDER]`, or a URL that fsspec knows.
    :param follow: go on until the run is complete, however often it is stopped and resumed.
    :param replace: replace shards there whose content is another.
    :param tell: is told of the progress, a line each.
    :raises OutputError: the destination has other files by these names.
    :raises DamagedRun: a file of the run is gone or damaged.
    :raises Unreachable: the destination does not answer or refuses.
    """
    push = _Push(directory, url, replace=replace, tell=tell)
    while not (seen := _try(push, patient=follow and push.began)).complete and follow:
        time.sleep(POLL_S)
    return seen


def _try(push: _Push, *, patient: bool) -> Pushed:
    """Send what is new. A destination that fell silent is asked again, if there is time."""
    while True:
        try:
            return push.go_on()
        except Unreachable as silent:
            if not patient:
                raise
            push.tell(f"{silent}. Trying again in {RETRY_S:.0f} s")
            time.sleep(RETRY_S)


class _Push:
    """One push: what it knows to be there, and what it has sent."""

    def __init__(self, directory: RunDirectory, url: str, *, replace: bool, tell: Tell) -> None:
        self.tell = tell
        self.began = False
        self._directory, self._url, self._replace = directory, url, replace
        self._place: Destination = Hub(url) if scheme_of(url) == "hf" else Store(url)
        self._refuse_inside()
        self._there: set[int] = set()
        self._sent, self._sent_bytes = 0, 0

    def go_on(self) -> Pushed:
        """Send the shards that were published since the last look; all else if they are all."""
        # Asked before the shards are listed: an index lists no shard that is not published.
        complete = self._directory.complete()
        published = self._published()
        names = set() if self.began else self._place.look()
        shards = {shard: self._items(shard) for shard in sorted(published - self._there)}
        if complete:
            self._refuse_strangers(names, published, shards)
        self._refuse_card_of_others(names)
        self._put_shards(shards, indexed="index.json" in names)
        self.began = True
        if complete and self._published() - self._there:
            return self.go_on()  # a later generation was published meanwhile
        if complete:
            self._put_summaries()
            self._place.tidy()
        return Pushed(complete, len(self._there), self._sent, self._sent_bytes)

    def _published(self) -> set[int]:
        return published_shards(self._directory) & committed_shards(self._directory)

    def _items(self, shard: int) -> list[Item]:
        return shard_items(self._directory, read_done(self._directory, shard))

    def _put_shards(self, shards: dict[int, list[Item]], *, indexed: bool) -> None:
        differences = {
            item: self._place.difference(item) for items in shards.values() for item in items
        }
        others = [f"{item.name}: {told}" for item, told in differences.items() if told]
        if others and not self._replace:
            raise OutputError(self._refusal(others))
        if others and indexed:  # it would list what is replaced now
            self._place.remove("index.json")
        missing = {
            shard: [item for item in items if differences[item] != ""]
            for shard, items in shards.items()
        }
        missing = {shard: items for shard, items in missing.items() if items}
        self._there |= shards.keys() - missing.keys()
        if missing:
            there, size = counted(len(self._there), "shard"), total_bytes([*missing.values()])
            self.tell(
                f"{counted(len(missing), 'shard')} to send, {data_size(size)}; {there} already "
                f"in {shown(self._url)}"
            )
        self._put(missing)

    def _put(self, missing: dict[int, list[Item]]) -> None:
        of_shard = {id(items): shard for shard, items in missing.items()}

        def sent(items: Sequence[Item]) -> None:
            self._there.add(of_shard[id(items)])
            self._sent += 1
            self._count([items])
            self.tell(f"{items[0].name}  {self._sent} sent, {data_size(self._sent_bytes)}")

        self._place.put([*missing.values()], sent)

    def _put_summaries(self) -> None:
        items = summary_items(self._directory)
        self._refuse_unlisted(items)
        if other := [item for item in items if self._place.difference(item) != ""]:
            self._place.put([other], lambda group: self._count([group]))

    def _count(self, groups: Sequence[Sequence[Item]]) -> None:
        self._sent_bytes += total_bytes(groups)

    def _refuse_unlisted(self, items: Iterable[Item]) -> None:
        """Refuse an index that lists a tar which is not among the shards that were sent.

        :raises DamagedRun: it does.
        """
        index = next(item for item in items if item.name == "index.json")
        try:
            listed = {str(one["url"]) for one in unseal(index.path.read_bytes())["shardlist"]}
        except (ValueError, KeyError, TypeError) as error:
            wrong = f"is no index ({error!r})"
        else:
            gone = listed - {f"data/{self._directory.data(one).name}" for one in self._there}
            wrong = f"lists {min(gone)}, which is not published" if gone else ""
        if wrong:
            raise DamagedRun(f"{index.path}: {wrong}. {remake(self._directory)}")

    def _refuse_inside(self) -> None:
        """Refuse a folder of the run itself: its readers would take the copy for more pictures.

        :raises OutputError: it is one.
        """
        local = not scheme_of(self._url) or scheme_of(self._url) == "file"
        root = self._directory.root.resolve()
        if local and Path(local_path(self._url)).expanduser().resolve().is_relative_to(root):
            raise OutputError(
                f"{shown(self._url)}: is in the folder of the run; name one outside of it"
            )

    def _refuse_card_of_others(self, names: set[str]) -> None:
        """Refuse to replace a README.md that no push has written: it comes after shards.

        :raises OutputError: it is there, and no shard.
        """
        if "README.md" not in names or self._replace or any(map(_SHARD_FILE.match, names)):
            return
        raise OutputError(
            f"{shown(self._url)} has a README.md and no pictures: it is no copy of a run, and the "
            "dataset's card would replace it. Push to a folder of its own; or, to replace it: "
            f"{shown(self._again('--replace'))}"
        )

    def _again(self, *options: str) -> str:
        return shell_command("batchgen", "push", self._directory.root, self._url, *options)

    def _refuse_strangers(
        self, names: Iterable[str], published: set[int], shards: dict[int, list[Item]]
    ) -> None:
        """Refuse files that readers of the destination would take for shards of this run.

        :raises OutputError: with their names.
        """
        ours = {item.name for items in shards.values() for item in items}
        ours |= {
            f"{path.parent.name}/{path.name}"
            for shard in published & self._there
            for path in (self._directory.data(shard), self._directory.metadata(shard))
        }
        strange = [name for name in names if _SHARD_FILE.match(name) and name not in ours]
        if strange:
            raise OutputError(
                f"{shown(self._url)} has files that are not of this run, and that its readers "
                f"would take for the run's: {_listed(sorted(strange))}. Push to another place, or "
                "remove them there"
            )

    def _refusal(self, others: Sequence[str]) -> str:
        again = self._again("--replace")
        return (
            f"{shown(self._url)} has other files by the names of this run's: {_listed(others)}. "
            "Another run may have been pushed there, or they are damaged. Push to another place; "
            f"or, to replace them: {shown(again)}"
        )


def _listed(texts: Sequence[str]) -> str:
    more = f"; and {len(texts) - _MANY} more" if len(texts) > _MANY else ""
    return "; ".join(texts[:_MANY]) + more
