"""The one tree of exceptions.

Every error that a user can cause or must act on is a `BatchgenError`. Its message says what is
wrong, where (file, row, column, shard), what was expected, and what to type next. The CLI returns
the error's `exit_code`.

    BatchgenError            1
    ├── InputError           2   something the user gave; nothing was started, nothing was lost
    │   ├── ManifestError    2   a row, a column or a file of the manifest
    │   ├── JobError         2   a key or a value of the job file or of --set
    │   ├── ModelError       2   a model folder, a hub id or a LoRA file
    │   ├── OutputError      2   the run directory: not writable, no hard links, another run's
    │   └── SiteError        2   a key or a value of the site profile, or what SLURM refuses
    ├── PlanChanged          2   the run directory was planned from other inputs
    ├── StillRunning         2   `resume` while workers of the run live
    ├── Unreachable          1   a place that a URL names does not answer, or refuses
    ├── SchedulerSilent      1   SLURM cannot be asked: no command, no answer, or nonsense
    ├── CannotStart          1   a worker cannot make its engine, and no restart would mend it
    ├── DamagedRun           1   a file of the run directory is not what the protocol wrote
    ├── OutOfMemory          1   the device could not hold the group
    ├── DeviceFault          1   the device is in an undefined state; the process must end
    ├── SickDevice           1   this worker's device makes only bad pictures
    └── RunStopped           3   the disk is full: free space, then resume
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata

# Control characters, invisible ones (those that change the direction of text are among them),
# halves of characters (a file name that is not UTF-8), separators of lines and paragraphs.
_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def printable(text: str) -> str:
    r"""`text` for a terminal: what could command it is escaped, as `\x1b[2J`; lines stay lines.

    Names of columns and files, prompts and logs come from anywhere. Everything that the verbs print
    passes through here (cli/telling.py, view/console.py).
    """
    return "\n".join(map(one_line, text.split("\n")))


def one_line(text: str) -> str:
    """`text`, printable, its line breaks escaped too.

    For names inside a message: their line breaks must not look like further lines of the message.
    """
    if text.isprintable():
        return text
    return "".join(repr(c)[1:-1] if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def brief(text: str, most: int = 200) -> str:
    """`text`, cut after `most` characters: people may give a megabyte, and its start tells."""
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def counted(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2,000 rows`, or with a verb: `counted(1, "node waits", "nodes wait")`.

    :param many: the words for every other number; `one` with an s if it is empty.
    """
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def shell_command(*words: object) -> str:
    r"""A command for a message: `words`, quoted so that it can be pasted into a shell.

    A word that is not printable becomes `$'…'`, in which bash and zsh read `\x1b` as that byte.
    """
    return " ".join(_quoted(str(word)) for word in words)


def _quoted(word: str) -> str:
    if one_line(word) == word:
        return shlex.quote(word)
    escaped = (
        "".join(f"\\x{byte:02x}" for byte in os.fsencode(c)) if one_line(c) != c else c
        for c in re.sub(r"([\\'])", r"\\\1", word)
    )
    return f"$'{''.join(escaped)}'"


class BatchgenError(Exception):
    """Root of the tree; its message is shown to the user without a traceback."""

    exit_code = 1


class InputError(BatchgenError):
    """Something the user gave cannot be used."""

    exit_code = 2


class ManifestError(InputError):
    """The manifest breaks its contract; the message names file, row and column."""


class JobError(InputError):
    """The job file or a `--set` breaks its contract; the message lists what is accepted."""


class ModelError(InputError):
    """The model cannot be found, or is not of a kind that batchgen loads."""


class OutputError(InputError):
    """The run directory cannot be used."""


class SiteError(InputError):
    """The site profile breaks its contract, or SLURM refuses what it asks for."""


class PlanChanged(BatchgenError):
    """The run was planned from other inputs; the message shows the difference."""

    exit_code = 2


class StillRunning(BatchgenError):
    """Workers of this run already live or wait."""

    exit_code = 2


class Unreachable(BatchgenError):
    """A place that a URL names does not answer, or refuses. What is there stays as it is."""


class SchedulerSilent(BatchgenError):
    """SLURM cannot be asked. Its silence proves nothing about a job."""


class CannotStart(BatchgenError):
    """A worker cannot make its engine, and another start would meet the same error."""


class DamagedRun(BatchgenError):
    """A file in the run directory is not what the protocol wrote."""


class OutOfMemory(BatchgenError):
    """The device could not hold the group. The worker halves it: a smaller one may fit."""


class DeviceFault(BatchgenError):
    """The device is in an undefined state; this process may compute nothing more."""


class SickDevice(BatchgenError):
    """This worker's device fails pictures that it, or another device, has made before."""


class RunStopped(BatchgenError):
    """Nothing can be written any more; what was written is safe."""

    exit_code = 3
