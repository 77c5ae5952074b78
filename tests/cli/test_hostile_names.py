"""Nothing of the user's commands the terminal: names, prompts and logs are shown escaped."""

import json
import os
import re
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.table import Table

from batchgen.errors import one_line, printable, shell_command
from batchgen.run.directory import RunDirectory
from batchgen.run.stop import ask_to_stop
from batchgen.view.console import open_console
from tests.support.rehearsal import Answer, ask, rehearse, write_prompts

# Clears the screen; C1's form of the same; the text after it runs backwards; a bell; a title.
HOSTILE = "x\x1b[2J\x9b2J\u202egnp.exe\x07\x1b]0;title\x07"
SHOWN = r"x\x1b[2J\x9b2J\u202egnp.exe\x07\x1b]0;title\x07"
COMMANDS = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def text_of(answer: Answer) -> str:
    """All that a command printed, which commands nothing."""
    text = answer.out + answer.err
    assert not COMMANDS.search(text), ascii(text)
    return text


def test_text_of_all_languages_stays_and_commands_are_escaped() -> None:
    assert (
        printable("naïve → 漢字\u3000עברית 🙂\nline two") == "naïve → 漢字\u3000עברית 🙂\nline two"
    )
    assert printable(HOSTILE) == SHOWN
    assert one_line("a\nb\rc\td\u2028e\udcff") == r"a\nb\rc\td\u2028e\udcff"


@pytest.mark.parametrize(
    "word", ["a b", "it's \\ here\n", HOSTILE, "\udcff\udcfe.parquet", "é\x01'"]
)
def test_a_command_to_type_is_printable_and_means_the_same_word(word: str) -> None:
    command = shell_command("printf", "%s", word)
    assert printable(command) == command
    ran = subprocess.run(["bash", "-c", command], capture_output=True, check=True)
    assert ran.stdout == os.fsencode(word)


@pytest.mark.parametrize(
    "columns", [[HOSTILE], ["prompt", HOSTILE, HOSTILE], ["prompt", "seed\nx"]]
)
def test_names_of_columns(tmp_path: Path, columns: list[str]) -> None:
    path = tmp_path / "m.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["1"])] * len(columns), names=columns), path)
    text = text_of(ask("plan", path))
    assert HOSTILE not in columns or SHOWN in text
    assert "\nx" not in text, "a name's line break makes no line of its own"


def test_names_of_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    path = write_prompts(folder / f"{HOSTILE}.parquet", ["a cat"])
    assert SHOWN in text_of(ask("plan", path))
    assert SHOWN in text_of(ask("plan", folder / "not there"))
    assert SHOWN in text_of(ask("status", folder))


def test_a_file_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "m.parquet", ["a cat"]).rename(tmp_path / "\udcff.parquet")
    assert r"\udcff.parquet: the path is not UTF-8; rename it" in text_of(ask("plan", path))


def test_a_file_name_that_would_write_lines_of_its_own_is_refused(tmp_path: Path) -> None:
    path = write_prompts(tmp_path / "m\nbatchgen: all is well\n.parquet", ["a cat"])
    told = text_of(ask("plan", path))
    assert r"m\nbatchgen: all is well\n.parquet: a line break in the path; rename it" in told


@pytest.mark.slow
def test_last_words_logs_prompts_and_causes(tmp_path: Path) -> None:
    out = tmp_path / "run"
    rehearse(out, [f"{HOSTILE} RAISE"])
    directory = RunDirectory(out)
    (directory.logs / "0001-worker-000.log").write_text(f"{HOSTILE}\n")
    (out / "index.json").unlink()
    ask_to_stop(directory, "restarts", HOSTILE)
    for words in ("status", "logs", "logs --failed", "verify"):
        verb, *options = words.split()
        text = text_of(ask(verb, out, *options))
        assert SHOWN in text or verb == "verify", words
    status = ask("status", out, "--json").out
    assert text_of(Answer(0, status, ""))
    assert HOSTILE in json.loads(status)["cause"]


def test_cells_of_tables(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(HOSTILE)
    table.add_row(HOSTILE)
    open_console().print(table)
    assert not COMMANDS.search(capsys.readouterr().out)
