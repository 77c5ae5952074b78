"""The console through which the verbs print: nothing that is printed can command the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.text import Text

from batchgen.errors import printable


def open_console(*, stderr: bool = False) -> Console:
    """A console that shows names and messages as they are, [brackets] too."""
    return _Console(stderr=stderr, highlight=False, markup=False, emoji=False)


class _Console(Console):
    """All texts pass `render_str` before they are shown, those in tables too."""

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines that the terminal, not rich, wraps: they can be copied whole."""
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)
