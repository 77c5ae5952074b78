"""A worker that is a replica of two ranks makes the pictures of one rank.

A killed rank costs its groups in flight, no more.
"""

import os
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import webdataset as wds

from batchgen.run.directory import RunDirectory
from batchgen.run.submissions import read_submission
from tests.support.rehearsal import Answer, ask, records, settings, write_prompts

pytestmark = pytest.mark.slow
PROMPTS = ["a red circle", "two blue squares", "a green star", "a yellow triangle"] * 4
COMMON = {
    "run__workers": 1,
    "sampling__steps": 6,
    "engine__batch_size": 4,
    "shards__pictures": 8,
    "output__format": "png",
}


def submit(out: Path, *words: str, **values: object) -> Answer:
    manifest = write_prompts(out.with_name("prompts.parquet"), PROMPTS)
    return ask("submit", manifest, "--out", out, *words, *settings(**COMMON | values))


def pixels(run: Path) -> dict[str, np.ndarray]:
    tars = [str(tar) for tar in sorted((run / "data").glob("*.tar"))]
    return {
        sample["__key__"]: sample["png"].astype(int)
        for sample in wds.WebDataset(tars, shardshuffle=False).decode("rgb8")
    }


def second_rank(run: Path, patience_s: float = 180.0) -> psutil.Process:
    """The process of rank 1, once the first group has begun."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        if any(b"begin" in journal.read_bytes() for journal in run.rglob("*.journal")):
            for process in psutil.process_iter(["environ", "cmdline"]):
                rank = (process.info["environ"] or {}).get("SUBMITIT_LOCAL_LOCALID")
                words = " ".join(process.info["cmdline"] or [])
                if rank == "1" and str(run) in words and "_submit" in words:
                    return process
        time.sleep(0.05)
    raise AssertionError("no second rank began")


def test_a_killed_rank_ends_its_replica_and_the_next_one_completes_the_run(tmp_path: Path) -> None:
    alone, run = tmp_path / "alone", tmp_path / "run"
    assert submit(alone).code == 0
    assert submit(run, "--detach", parallel__cp=2).code == 0
    assert read_submission(RunDirectory.open(run), 1).ranks == 2
    victim = second_rank(run)
    os.kill(victim.pid, signal.SIGKILL)
    until = time.monotonic() + 240
    while ask("status", run).code != 0:
        assert time.monotonic() < until, ask("logs", run).out
        time.sleep(0.5)
    assert ask("verify", "--deep", run).code == 0
    assert [record["index"] for record in records(run)] == list(range(16))
    assert {record["attempt"] for record in records(run)} > {1}, "nobody died"
    ours, theirs = pixels(run), pixels(alone)
    assert ours.keys() == theirs.keys()
    # Two ranks round differently: by one level of 255.
    assert max(abs(ours[key] - theirs[key]).max() for key in ours) <= 1
