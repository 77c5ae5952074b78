"""Two replicas of two ranks; the second rank of one fails because of its pictures, again and again.

The other replica never notices. Each verdict is applied by the next process, and every picture is
the one that a rank alone makes.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import webdataset as wds

from batchgen.shard.journal import Entry, read_journal
from tests.support.rehearsal import ask, faulty, records, settings, write_prompts

pytestmark = pytest.mark.slow
WORDS = ["a red circle", "two blue squares", "a green star", "a yellow triangle"]
OTHERS = ["a small yellow star", "three green squares", "a blue triangle", "two red circles"]
SHARD = 12
PROMPTS = [
    *WORDS,
    WORDS[0],
    f"{WORDS[1]} RAISE",
    *WORDS[2:],
    *(f"{word} HEAVY" for word in WORDS),
    *OTHERS * 3,
]
WIDTHS = [128] * 8 + [192] * 4 + [128] * SHARD
STEPS = [6] * SHARD + [9] * SHARD
COMMON = {
    "run__workers": 2,
    "engine__batch_size": 4,
    "shards__pictures": SHARD,
    "output__format": "png",
}
PATIENCE_S = 420.0


@dataclass
class Finished:
    """A run, and what was seen while it went on."""

    folder: Path
    # By shard and attempt.
    verdicts: dict[tuple[int, int], Entry]
    # By the job of a failed replica: seconds from the fault until all its ranks had ended.
    gone_s: dict[str, float]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("verdicts")
    strikes = folder / "strikes"
    strikes.touch()
    manifest = write_prompts(folder / "prompts.parquet", PROMPTS, width=WIDTHS, steps=STEPS)
    assert ask("submit", manifest, "--out", folder / "alone", *settings(**COMMON)).code == 0
    seen = Finished(folder / "run", {}, {})
    words = ["--out", seen.folder, "--detach", *settings(**COMMON, parallel__cp=2)]
    with faulty(NOTE_STRIKES=str(strikes)):
        assert ask("submit", manifest, *words).code == 0
    until = time.monotonic() + PATIENCE_S
    while ask("status", seen.folder).code != 0:
        assert time.monotonic() < until, ask("logs", seen.folder).out
        for job, struck in (line.split() for line in strikes.read_text().splitlines()):
            alive = any(job == _job(process) for process in psutil.process_iter())
            if job not in seen.gone_s and not alive:
                seen.gone_s[job] = time.time() - float(struck)
        for path in seen.folder.glob(".batchgen/partial/*/*.journal"):
            shard, attempt = map(int, path.name.split(".")[:2])
            for entry in read_journal(path):
                if entry.do == "verdict":
                    seen.verdicts[shard, attempt] = entry
        time.sleep(0.3)
    return seen


def _job(process: psutil.Process) -> str:
    """The job of a rank; empty for other processes."""
    try:
        rank = "_submit" in process.cmdline()
        return process.environ().get("SUBMITIT_LOCAL_JOB_ID", "") if rank else ""
    except psutil.Error:
        return ""


def told(record: dict[str, Any]) -> tuple[str, str, int]:
    return record["cause"], record["path"], record["group_size"]


def test_every_verdict_is_applied_by_the_next_life(run: Finished) -> None:
    """Three attempts end: because of a group, a picture of it again, and a group too large."""
    verdicts = [
        (attempt, one) for (shard, attempt), one in sorted(run.verdicts.items()) if not shard
    ]
    said = [(attempt, one.at, one.count, one.cause) for attempt, one in verdicts]
    assert said == [(1, 4, 4, "exception"), (2, 5, 1, "exception"), (3, 8, 4, "out of memory")]
    assert max(record["attempt"] for record in records(run.folder)) == 4


def test_only_the_picture_that_cannot_be_made_is_missing_and_the_failing_ranks_words_are_kept(
    run: Finished,
) -> None:
    made = records(run.folder)
    assert [record["index"] for record in made] == list(range(len(PROMPTS)))
    assert [told(record) for record in made[:4]] == [("", "normal", 4)] * 4
    retried = [("exception" if key == 5 else "", "retry", 1) for key in range(4, 8)]
    assert [told(record) for record in made[4:8]] == retried
    assert [told(record) for record in made[8:SHARD]] == [("", "oom_split", 2)] * 4
    assert "rank 1 of 2 on " in made[5]["error"]
    assert "RuntimeError: the picture does not want to be made" in made[5]["error"]
    assert ask("verify", "--deep", run.folder).code == 0


def test_the_other_replica_never_notices(run: Finished) -> None:
    others = records(run.folder)[SHARD:]
    made = {(*told(record), record["attempt"], record["worker"]) for record in others}
    assert made == {("", "normal", 4, 1, 1)}
    assert all(shard == 0 for shard, _ in run.verdicts)


def test_the_failing_replicas_ranks_are_gone_within_a_minute(run: Finished) -> None:
    print({job: f"{seconds:.1f} s" for job, seconds in run.gone_s.items()})
    assert len(run.gone_s) == 3
    assert max(run.gone_s.values()) < 60


def test_each_picture_is_the_one_a_rank_alone_makes(run: Finished) -> None:
    ours, theirs = _pixels(run.folder), _pixels(run.folder.with_name("alone"))
    assert ours.keys() == theirs.keys() - {"000000005"}
    # Two ranks round differently: by one level of 255.
    assert max(abs(ours[key] - theirs[key]).max() for key in ours) <= 1


def _pixels(run: Path) -> dict[str, np.ndarray]:
    tars = [str(tar) for tar in sorted((run / "data").glob("*.tar"))]
    return {
        sample["__key__"]: sample["png"].astype(int)
        for sample in wds.WebDataset(tars, shardshuffle=False).decode("rgb8")
    }
