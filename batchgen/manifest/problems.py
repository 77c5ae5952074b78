"""All problems of a manifest are counted; the first ten are shown in full."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from batchgen.errors import ManifestError

SHOWN = 10
_SHOWN_CHARACTERS = 60


def shorten(value: object) -> str:
    """A value as it stands in a message: quoted, cut after 60 characters."""
    text = value if isinstance(value, str) else str(value)
    cut = (
        text
        if len(text) <= _SHOWN_CHARACTERS
        else f"{text[:_SHOWN_CHARACTERS]}… ({len(text)} characters)"
    )
    return repr(cut) if isinstance(value, str) else cut


class Problems:
    """Collects problems batch by batch, so that the first ten are the first ten of the manifest."""

    def __init__(self) -> None:
        self.count = 0
        self._shown: list[str] = []
        self._batch: list[tuple[int, str]] = []

    def rows(self, rows: Sequence[int], describe: Callable[[int], str]) -> None:
        """Count one problem a row of the current batch; `describe` is called only for those that may be shown."""
        self.count += len(rows)
        room = SHOWN - len(self._shown)
        self._batch += [(int(row), describe(int(row))) for row in rows[:room]]

    def end_batch(self) -> None:
        """The current batch is checked: its problems, in the order of its rows, join those shown."""
        self._batch.sort(key=lambda entry: entry[0])
        self._shown += [text for _, text in self._batch[: SHOWN - len(self._shown)]]
        self._batch.clear()

    def add(self, text: str) -> None:
        """Count one problem that belongs to no row of the current batch."""
        self.end_batch()
        self.count += 1
        if len(self._shown) < SHOWN:
            self._shown.append(text)

    def count_only(self, more: int) -> None:
        """Count problems that are not shown."""
        self.count += more

    def raise_if_any(self) -> None:
        """:raises ManifestError: with the number of all problems and the first ten in full."""
        self.end_batch()
        if not self.count:
            return
        if self.count == 1:
            raise ManifestError(self._shown[0])
        shown = f", the first {len(self._shown)}" if self.count > len(self._shown) else ""
        lines = "\n  ".join(self._shown)
        raise ManifestError(
            f"{self.count} problems in the manifest{shown} (rows are counted from 0 within their file):\n  {lines}"
        )
