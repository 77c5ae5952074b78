"""The records as JSON lines, and what their columns mean."""

import json
from datetime import datetime, timedelta
from pathlib import Path

from batchgen.shard.columns import COLUMNS
from tests.support.rehearsal import ask
from tests.support.specimens import planned, worked


def test_published_records_are_printed_as_json_lines(tmp_path: Path) -> None:
    run = worked(planned(tmp_path, ["a “cat”", "RAISE", "a dog"], score=[0.5, 1.5, 2.5]))
    told = [json.loads(line) for line in ask("records", run.directory.root).out.splitlines()]
    assert [(one["index"], one["outcome"]) for one in told] == [(0, "ok"), (1, "failed"), (2, "ok")]
    assert (told[0]["prompt"], told[0]["extra"]) == ("a “cat”", {"score": 0.5})
    assert datetime.fromisoformat(told[0]["finished_at"]).utcoffset() == timedelta()


def test_every_column_is_explained() -> None:
    lines = ask("records", "--columns").out.splitlines()
    assert [line.split()[0] for line in lines] == [*(one.name for one in COLUMNS), "extra"]


def test_without_a_run_the_command_is_told() -> None:
    refused = ask("records")
    assert refused.code == 2
    assert "batchgen records RUN" in refused.err
