"""Replicas of several ranks, with the embedded model, paint the pictures that one rank paints.

A replica fills a node, shares it with others, or fills two nodes.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset as wds

from tests.cluster.cluster import Cluster, ClusterRun, NewRun, kill, until
from tests.protocol import recount
from tests.support.rehearsal import ask, settings, status, write_prompts

pytestmark = pytest.mark.slow
PROMPTS = [
    f"{count} {colour} star"
    for count in ("a", "two", "three")
    for colour in ("red", "blue", "green", "black")
] * 20
SMALL = {
    "sampling__width": 64,
    "sampling__height": 64,
    "sampling__steps": 4,
    "engine__batch_size": 8,
    "output__format": "png",
}


def paint(out: Path, prompts: list[str], *words: object, **values: object) -> None:
    manifest = write_prompts(out.with_name(f"{out.name}.parquet"), prompts)
    given = settings(**SMALL | {"shards__pictures": 16} | values)
    answer = ask("submit", manifest, "--out", out, *words, *given)
    assert answer.code == 0, answer.err


def pixels(run: Path) -> dict[str, np.ndarray]:
    tars = [str(tar) for tar in sorted((run / "data").glob("*.tar"))]
    return {
        sample["__key__"]: sample["png"].astype(int)
        for sample in wds.WebDataset(tars, shardshuffle=False).decode("rgb8")
    }


def complete(run: Path, pictures: int) -> bool:
    """Whether every picture is there exactly once, and sound."""
    rows = recount.records(run)
    once = sorted(row["index"] for row in rows) == list(range(pictures))
    normal = {row["path"] for row in rows} == {"normal"}
    there = len(pixels(run)) == pictures
    return once and normal and there and ask("verify", run, "--deep").code == 0


def furthest(run: Path, other: Path) -> int:
    """The largest difference between two runs' pixels.

    In fp32 ranks only round differently, which moves a latent by less than 1e-4.
    """
    ours, theirs = pixels(run), pixels(other)
    return max(int(abs(ours[key] - theirs[key]).max()) for key in ours)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same pictures by workers of one rank on this machine."""
    out = tmp_path_factory.mktemp("alone") / "run"
    paint(out, PROMPTS, run__workers=2)
    return out


@pytest.fixture
def painted(new_run: NewRun) -> Callable[..., ClusterRun]:
    """Submits a run with the embedded model; its arguments are keys of the site profile."""

    def make(name: str, cp: int, prompts: list[str], **profile: object) -> ClusterRun:
        one = new_run(name, **profile)
        paint(one.root, prompts, "--site", one.profile, parallel__cp=cp)
        return one

    return make


def rank(cluster: Cluster, job: str, number: int) -> int:
    """The process of a rank of a job."""
    for pid in cluster.processes("submitit.core._submit"):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        wanted = {f"SLURM_JOB_ID={job}".encode(), f"SLURM_PROCID={number}".encode()}
        if wanted <= set(variables):
            return pid
    raise AssertionError(f"job {job} has no rank {number}")


def test_pictures_of_replicas_are_the_same_wherever_they_run_and_whoever_dies(
    painted: Callable[..., ClusterRun],
    cluster: Cluster,
    alone: Path,
    tell_recovery: Callable[..., None],
) -> None:
    """Eight ranks on four nodes; then two replicas on one node, one of which loses a rank."""
    wide = painted("wide", 2, PROMPTS, nodes=4)
    until(wide.done, "the run on four nodes is complete", 240)
    assert complete(wide.root, len(PROMPTS))
    assert {row["host"] for row in recount.records(wide.root)} == set(cluster.script.NODES)
    assert {row["worker"] for row in recount.records(wide.root)} == {0, 1, 2, 3}
    assert furthest(wide.root, alone) <= 1

    on_one = ["--nodelist=127.0.0.3"]
    narrow = painted("narrow", 2, PROMPTS, gpus_per_node=0, workers_per_node=2, sbatch=on_one)
    until(lambda: narrow.at_work(0) and narrow.at_work(1), "both replicas are at work", 240)
    first = narrow.owner()
    kill(rank(cluster, first["job"], 1))
    struck = time.time()
    gone = "rank 0 has ended too"
    ended = until(lambda: first["pid"] not in cluster.processes("submitit"), gone, 60)
    until(narrow.done, "the run on one node is complete", 240)
    cost = f"replica over in {ended:.0f} s, run in {time.time() - struck:.0f} s"
    tell_recovery("kill -9 of a replica's second rank", cost, "")
    assert complete(narrow.root, len(PROMPTS))
    assert {row["host"] for row in recount.records(narrow.root)} == {"127.0.0.3"}
    assert any(row["attempt"] > 1 for row in recount.records(narrow.root)), "nobody died"
    assert recount.tar_hashes(narrow.root) == recount.tar_hashes(wide.root)


def test_a_replica_may_be_larger_than_a_node(
    painted: Callable[..., ClusterRun], cluster: Cluster, alone: Path
) -> None:
    """Four ranks on two nodes with two GPUs each are one element of the array."""
    one = painted("tall", 4, PROMPTS[:32], nodes=2)
    until(one.done, "the run is complete", 240)
    assert complete(one.root, 32)
    assert one.element().endswith("_0")
    assert {int(path.stem[-1]) for path in one.root.glob(".batchgen/logs/*.rank*.log")} == {1, 2, 3}
    assert furthest(one.root, alone) <= 1
    denoise_s = sum(row["group_denoise_s"] for row in recount.records(one.root))
    assert status(one.root)["used_s"] > 4 * denoise_s
