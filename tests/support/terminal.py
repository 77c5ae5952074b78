"""A command in a terminal of its own, which is emulated: what a person sees there at any moment."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pyte

PATIENCE_S = 60.0


@dataclass
class Terminal:
    """A command in a terminal, and what it showed so far."""

    pid: int
    master: int
    screen: pyte.Screen
    # Everything, with its escape codes.
    shown: str = ""
    _stream: pyte.ByteStream = field(init=False)

    def __post_init__(self) -> None:
        self._stream = pyte.ByteStream(self.screen)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen now."""
        return [line.rstrip() for line in self.screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines).strip("\n")

    def read(self, until: str) -> str:
        """What was shown until the pattern `until` appeared, or until the command was done."""
        self._read_while(lambda: not re.search(until, self.shown))
        return self.shown

    def look(self, until: str) -> str:
        """The screen as soon as the pattern `until` stands on it.

        The command is then in the middle of a sleep, with its screen drawn whole.
        """
        self._read_while(lambda: not re.search(until, self.text, re.MULTILINE))
        assert re.search(until, self.text, re.MULTILINE), self.text
        return self.text

    def _read_while(self, wanted: Callable[[], bool]) -> None:
        end = time.time() + PATIENCE_S
        while wanted() and time.time() < end:
            if select.select([self.master], [], [], 0.1)[0]:
                try:
                    read = os.read(self.master, 65536)
                except OSError:  # the command is done
                    break
                self.shown += read.decode(errors="replace")
                self._stream.feed(read)

    def resize(self, columns: int, lines: int = 24) -> None:
        """As a person who drags the window.

        Lines that are too long now are wrapped, as terminals do; the command is told by SIGWINCH.
        """
        above = self.lines[: self.screen.cursor.y + 1]
        parts = [
            line[at : at + columns] for line in above for at in range(0, len(line) or 1, columns)
        ]
        self.screen.resize(lines, columns)
        self.screen.reset()
        self._stream.feed("\r\n".join(parts).encode())
        _set_size(self.master, columns, lines)

    def press_ctrl_c(self) -> None:
        os.write(self.master, b"\x03")

    def hang_up(self) -> None:
        os.close(self.master)

    def exit_code(self) -> int:
        self.read("this is never shown")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def open_terminal(
    command: Sequence[str], *, columns: int = 200, lines: int = 24, **variables: str
) -> Terminal:
    """Start a command in a new terminal.

    :param variables: of its environment.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    pid, master = pty.fork()
    if pid == 0:
        # A suite that a shell starts in the background inherits SIGINT ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        _set_size(0, columns, lines)
        os.execvpe(command[0], command, kept | {"TERM": "xterm-256color"} | variables)
    return Terminal(pid, master, pyte.Screen(columns, lines))


def _set_size(terminal: int, columns: int, lines: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
