"""One mutated input: the commands that meet it, what they answer, and how that is judged."""

from __future__ import annotations

import io
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

import typer

from batchgen.cli import main

# A process asks hundreds of commands; what they are built from never changes.
typer.main.get_command = cache(typer.main.get_command)

# A longer message is no clear one.
LONGEST_MESSAGE = 10_000
# Control characters and those that reorder text: a terminal obeys them.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_TRACEBACK = "Traceback (most recent call last)"


class Outcome(StrEnum):
    """What became of an input. Only the first two are right."""

    REFUSED = "clean error"
    ACTED = "acted"
    WRONG = "wrong"
    TRACEBACK = "traceback"
    HANG = "hang"


@dataclass(frozen=True)
class Answer:
    """What a command printed, its exit code, and the traceback of an exception that left it."""

    words: tuple[str, ...]
    code: int
    out: str
    err: str
    raised: str = ""


Answers = Sequence[Answer]


@dataclass(frozen=True)
class Trial:
    """A mutated input that lies on the disk."""

    # What was mutated, and how.
    about: str
    # The commands that meet the input, one after another.
    commands: Sequence[Sequence[object]]
    # What is wrong although every command was accepted; "" for nothing.
    wrong_if_accepted: Callable[[Answers], str] = lambda _: ""
    # What is wrong whatever the commands answered.
    wrong_always: Callable[[Answers], str] = lambda _: ""


def run(trial: Trial) -> tuple[Outcome, str]:
    """Run the commands of a trial in this process, and judge their answers.

    :returns: the outcome, and the reason if it is not a right one; of an error, its message.
    """
    answers: list[Answer] = []
    for words in trial.commands:
        answer = ask(words)
        answers.append(answer)
        if answer.raised or _TRACEBACK in answer.err:
            return Outcome.TRACEBACK, answer.raised or answer.err
        if form := _wrong_form(answer):
            return Outcome.WRONG, f"batchgen {answer.words[:1]}: {form}"
    refused = [answer for answer in answers if answer.code in (1, 2)]
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        wrong = trial.wrong_always(answers)
        if not refused:
            wrong = wrong or trial.wrong_if_accepted(answers)
    if wrong:
        return Outcome.WRONG, wrong
    if refused:
        return Outcome.REFUSED, refused[0].err or refused[0].out
    return Outcome.ACTED, ""


def ask(words: Sequence[object]) -> Answer:
    """Run one command in this process as the console script does."""
    given = tuple(str(word) for word in words)
    # As the streams of a process: standard output cannot encode half a character, and standard
    # error writes it escaped.
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="strict", write_through=True)
    err = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)
    sys.argv = ["batchgen", *given]
    code, raised = 0, ""
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:  # noqa: BLE001 - whatever it is, a person would see its traceback
            raised = traceback.format_exc()
    return Answer(given, code, _text(out), _text(err), raised)


def _text(stream: io.TextIOWrapper) -> str:
    stream.seek(0)
    return stream.read()


def _wrong_form(answer: Answer) -> str:
    """What is wrong with the form of an answer; "" for nothing."""
    if answer.code and not (answer.err + answer.out).strip():
        return f"exit code {answer.code} without a word"
    if answer.code == 2 and not answer.err.strip():
        return "an error that says nothing on standard error"
    if len(answer.err) > LONGEST_MESSAGE:
        return f"a message of {len(answer.err)} characters: {answer.err[:200]}"
    if found := _OBEYED.search(answer.out + answer.err):
        shown = answer.out + answer.err
        around = shown[max(found.start() - 60, 0) : found.end() + 20]
        return f"the character {found[0]!r} reaches the terminal: {around!r}"
    return ""
