"""One look at a run that goes on: a screen for a terminal, a line for a log.

A screen fits its terminal. Where there are more workers than lines, the slowest are shown, and the
others are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from batchgen.errors import counted, one_line
from batchgen.run import Failure
from batchgen.shard import key_text
from batchgen.units import duration, money
from batchgen.view.roster import AtWork
from batchgen.view.status import Status

# Columns of a terminal from which on a worker's line has room for its pictures, its pace, its shard
# and its device.
ROOM_FOR_PICTURES, ROOM_FOR_PACE, ROOM_FOR_SHARD, ROOM_FOR_DEVICE = 50, 60, 72, 100
LONGEST_BAR = 60
# Lines of a screen beside those of the workers.
_FRAME = 9


class Screen:
    """A status as a terminal shows it."""

    def __init__(self, status: Status, now: float, hint: str) -> None:
        """:param now: pictures per second in the last minute; 0 while unknown.
        :param hint: what Ctrl-C does.
        """
        self._status, self._now, self._hint = status, now, hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        status, width = self._status, options.max_width
        yield _line(f"{status.state}: {status.cause}", "bold")
        yield _bar(status, min(LONGEST_BAR, width))
        yield Segment.line()
        yield _line(_counts(status))
        yield _line(", ".join(_rates(status, self._now)) or "no picture yet")
        if status.cost is not None:
            yield _line(_cost(status))
        if status.at_work:
            yield Text()
            yield from _workers(status.at_work, width, max(options.size.height - _FRAME, 1))
        yield from (_line(failed(one), "yellow") for one in status.last_failures)
        yield _line(self._hint, "dim")


def log_line(status: Status, now: float) -> str:
    """A status as a line of a log: pictures, rates, workers, what takes time before the first."""
    phases = f": {_phases(status.at_work)}" if status.starting else ""
    parts = [
        f"{status.state}  {_counts(status)}",
        "  ".join(_rates(status, now)),
        f"{counted(status.workers, 'worker')}{phases}",
        _cost(status) if status.cost is not None else "",
    ]
    return "  ".join(filter(None, parts))


def failed(failure: Failure) -> str:
    """A failed picture, in a line."""
    return f"failed {key_text(failure.key)}: {failure.cause}: {failure.prompt}"


def _line(text: str, style: str = "") -> Text:
    return Text(one_line(text), style, no_wrap=True, overflow="ellipsis")


def _bar(status: Status, width: int) -> ProgressBar:
    """In colours that are seen on black and on white."""
    return ProgressBar(
        status.pictures,
        status.written,
        width,
        style="bright_black",
        complete_style="green",
        finished_style="green",
    )


def _counts(status: Status) -> str:
    bad = status.failed + status.failed_in_progress
    shards = f"{status.shards_done:,}/{counted(status.shards, 'shard')}"
    share = f"{status.written / status.pictures:.0%}" if status.pictures else ""
    pictures = f"{status.written:,}/{counted(status.pictures, 'picture')}"
    parts = (pictures, share, f"{bad:,} failed" if bad else "", shards)
    return "  ".join(filter(None, parts))


def _rates(status: Status, now: float) -> Iterator[str]:
    """Rates in pictures per minute, and the time that is left at them."""
    average = status.pictures_per_second
    if now:
        yield f"{_a_minute(now)}/min now"
    if average:
        yield f"{_a_minute(average)}/min on average"
    if left_s := status.left_s or (now and (status.pictures - status.written) / now):
        yield f"about {duration(left_s)} left"


def _a_minute(per_second: float) -> str:
    rate = 60 * per_second
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2f}"


def _cost(status: Status) -> str:
    more = f", about {money(status.cost_to_go)} to go" if status.cost_to_go else ""
    return f"cost {money(status.cost or 0.0)}{more}"


def _phases(at_work: Sequence[AtWork]) -> str:
    """What workers do, and how many of them if they do different things."""
    doing = Counter(one.stage.words for one in at_work).most_common(3)
    return doing[0][0] if len(doing) == 1 else ", ".join(f"{n:,} {words}" for words, n in doing)


def _workers(at_work: Sequence[AtWork], width: int, lines: int) -> Iterator[Table | Text]:
    """A line for each worker, or for so many of the slowest."""
    shown = list(at_work)
    if len(shown) > lines:
        shown = sorted(at_work, key=_slowness, reverse=True)[: max(lines - 1, 1)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("worker", justify="right", min_width=6)
    table.add_column("stage", no_wrap=True, overflow="ellipsis")
    table.add_column("for", justify="right", min_width=4)
    if width >= ROOM_FOR_SHARD:
        table.add_column("shard", justify="right", min_width=6)
    if width >= ROOM_FOR_PICTURES:
        table.add_column("pictures", justify="right", min_width=8)
    if width >= ROOM_FOR_PACE:
        table.add_column("s/picture", justify="right", min_width=9)
    if width >= ROOM_FOR_DEVICE:
        table.add_column("device", no_wrap=True, overflow="ellipsis")
    several = len({one.submission for one in at_work}) > 1, len({one.host for one in at_work}) > 1
    for one in shown:
        table.add_row(*_cells(one, width, *several))
    yield table
    if others := Counter(one.stage.text for one in at_work if one not in shown):
        counts = (f"{count:,} {text}" for text, count in others.most_common())
        yield _line(f"and {', '.join(counts)}; the slowest are shown", "dim")


def _cells(one: AtWork, width: int, submissions: bool, hosts: bool) -> Iterator[str]:
    yield f"{one.submission}.{one.worker}" if submissions else str(one.worker)
    yield one.stage.words
    yield duration(one.silent_s)
    if width >= ROOM_FOR_SHARD:
        yield "" if one.stage.shard is None else f"{one.stage.shard:06d}"
    if width >= ROOM_FOR_PICTURES:
        yield f"{one.stage.pictures:,}"
    if width >= ROOM_FOR_PACE:
        pace = one.s_per_picture
        yield f"{pace:.{2 if pace < 10 else 1}f}" if pace else ""
    if width >= ROOM_FOR_DEVICE:
        yield f"{one.host} {one.stage.device}".strip() if hosts else one.stage.device


def _slowness(one: AtWork) -> float:
    """Seconds of a picture, so far: a group that hangs counts more and more."""
    return max(one.s_per_picture or 0.0, one.silent_s / max(one.stage.group, 1))
