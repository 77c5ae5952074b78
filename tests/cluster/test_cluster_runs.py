"""Runs on a real SLURM cluster: begun, watched, stopped, and resumed elsewhere."""

import json
import os
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cluster.cluster import (
    PROMPTS,
    SHAPE,
    Cluster,
    ClusterRun,
    NewRun,
    another_clock,
    kill,
    until,
)
from tests.protocol import recount
from tests.support.rehearsal import ask, rehearse, settings, status, write_prompts

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


def watch(run: ClusterRun) -> str:
    answer = ask("status", run.root, "--watch")
    assert answer.code == 0, answer.out
    return answer.out


def test_eight_workers_on_four_nodes_make_240_pictures(
    new_run: NewRun, cluster: Cluster, tmp_path: Path
) -> None:
    """The bytes are those of a run on this machine, and every GPU of every node made some."""
    prompts = [f"a dog {n}" for n in range(240)]
    one = new_run(nodes=4)
    answer = one.submit(prompts=prompts, pattern__delay_s=0.5)
    assert answer.code == 0, answer.err
    assert re.search(
        rf"8 workers on 4 nodes submitted to SLURM as \d+\.\nbatchgen status {one.root} --watch\n",
        answer.out,
    )
    assert status(one.root)["state"] in ("queued", "running")
    refused = ask("resume", one.root)
    assert refused.code == 2
    assert f"bring more workers with: batchgen resume {one.root} --add 1" in refused.err
    assert "240 ok, 0 failed, 0 pending of 240 pictures" in watch(one)
    assert re.search(
        r"of devices used, .* of it not on published pictures", ask("status", one.root).out
    )
    assert ask("verify", one.root, "--deep").code == 0
    here = tmp_path / "here"
    rehearse(here, prompts, shards__pictures=8, sampling__width=16, sampling__height=16)
    assert recount.wrong_at_end(one.root, prompts) == []
    assert recount.tar_hashes(one.root) == recount.tar_hashes(here)
    assert {row["host"] for row in recount.records(one.root)} == set(cluster.script.NODES)
    assert {row["worker"] for row in recount.records(one.root)} == set(range(8))
    until(lambda: not cluster.jobs(), "the jobs have ended", 30)
    assert status(one.root)["state"] == "complete"


def test_calibrate_submits_every_setting_at_once_and_compares_them_afterwards(
    new_run: NewRun, tmp_path: Path
) -> None:
    profile, root = new_run().profile, tmp_path / "c"
    file = write_prompts(tmp_path / "p.parquet", PROMPTS)
    words = ["calibrate", file, "--rehearse", "--site", profile, "--out", root]
    words += ["--pictures", 8, "--tolerance", 0.01, "--tolerance", 0.02]
    words += settings(sampling__width=16, sampling__height=16, engine__batch_size=4)
    first = ask(*words)
    assert (first.code, first.err) == (3, "")
    assert len(re.findall(r"submitted to SLURM as \d+", first.out)) == 3
    runs = [root / name for name in ("uncached", "multistep-0.01", "multistep-0.02")]
    until(lambda: all((run / "index.json").exists() for run in runs), "all are complete")
    second = ask(*words)
    assert (second.code, second.err) == (0, "")
    assert "submitted" not in second.out
    assert all(run.name in second.out for run in runs)
    assert (root / "job.toml").exists()


def test_a_time_limit_reached_several_times_over_only_costs_time_whatever_the_clocks_say(
    new_run: NewRun, reference: dict[str, str], tell_recovery: Callable[..., None], tmp_path: Path
) -> None:
    """An allocation lasts a minute, half of it after the signal, and the run needs at least three.

    The same run goes on beside it with clocks that are an hour off, and one worker is killed.
    """
    python = another_clock(tmp_path)
    runs = {"time limit": new_run(time="1", signal_s=30)}
    if python:
        late = new_run("late", time="1", signal_s=30, python=python)
        runs["clocks an hour off, a rank killed"] = late
    began = time.time()
    for one in runs.values():
        assert one.submit(pattern__delay_s=5).code == 0
    if python:
        until(lambda: late.at_work(0) and late.at_work(2), "both nodes are at work")
        kill(late.owner(0)["pid"])
    for name, one in runs.items():
        until(one.done, f"with {name}, the run is complete", 400)
        assert one.wrong(reference) == []
        allocations = [len(one.members(worker)) for worker in range(4)]
        # On a busy machine one of the two nodes was once done with the run after its second.
        assert min(allocations) >= 2
        assert max(allocations) >= 3
        first = one.root / ".batchgen/logs/0001-worker-001.log"
        assert first.read_text().count("INFO shard ") >= 3, "a new allocation overwrote the log"
        ends = "".join(path.read_text() for path in one.root.glob(".batchgen/jobs/0001/*.end"))
        assert re.search("SIGUSR2|deadline|SIGTERM", ends)
        cost = f"{max(allocations)} allocations in {time.time() - began:.0f} s"
        tell_recovery(name, cost, f"{one.lost_groups()}")
    if not python:
        command = "apt-get install --no-install-recommends faketime"
        said = f"NOT TESTED WITH WRONG CLOCKS, because libfaketime is not installed: {command}"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    claims = late.root.glob(".batchgen/claims/*/*.0001")
    times = [json.loads(path.read_bytes())["at"] for path in claims]
    assert min(times) < began - 3000 < began + 3000 < max(times), "their clocks were not off"


def test_a_cancelled_run_stays_cancelled_and_is_finished_on_this_machine(
    new_run: NewRun, cluster: Cluster, reference: dict[str, str]
) -> None:
    """scancel ends the whole array, not batchgen. `resume --local` takes the shards over."""
    one = new_run()
    assert one.submit(pattern__delay_s=1.5).code == 0
    until(lambda: one.at_work(0) and one.at_work(2), "it is at work")
    cluster.run("scancel", one.element().partition("_")[0])
    until(lambda: not cluster.jobs(), "the jobs are gone")
    time.sleep(8)
    assert cluster.jobs() == {}
    told = status(one.root)
    assert (told["state"], told["next"]) == ("stalled", f"batchgen resume {one.root}")
    answer = ask("resume", one.root, "--local", *settings(pattern__delay_s=0, run__workers=1))
    assert answer.code == 0, answer.out
    assert one.wrong(reference) == []


def test_a_run_begun_on_this_machine_is_finished_on_the_cluster(
    new_run: NewRun, reference: dict[str, str]
) -> None:
    """It is asked to stop here, resumed there on one node, and given two more nodes later."""
    one = new_run(nodes=1)
    assert rehearse(one.root, PROMPTS, "--detach", **SHAPE, pattern__delay_s=0.5).code == 0
    until(lambda: one.at_work(0), "it is at work")
    assert ask("cancel", one.root).code == 0
    assert ask("status", one.root, "--watch").code == 3
    answer = ask("resume", one.root, "--site", one.profile, *settings(pattern__delay_s=2))
    assert "2 workers on 1 node submitted to SLURM as " in answer.out
    assert "4 workers on 2 nodes submitted to SLURM as " in ask("resume", one.root, "--add", 2).out
    watch(one)
    assert one.wrong(reference) == []
    records = sorted(one.root.glob(".batchgen/jobs/*.json"))
    sites = [json.loads(path.read_bytes())["site"] for path in records]
    as_large_as_the_profile_says = [None, 1, 1]
    assert [site and site["nodes"] for site in sites] == as_large_as_the_profile_says


def test_cancel_lets_the_groups_in_flight_finish_and_takes_waiting_nodes_back(
    new_run: NewRun, cluster: Cluster, reference: dict[str, str]
) -> None:
    """One node may work at a time, so three wait, and `status` says why."""
    one = new_run(nodes=4, max_running=1)
    assert one.submit(pattern__delay_s=1.5).code == 0
    until(lambda: one.at_work(0), "it is at work")
    told = status(one.root)
    assert (told["state"], told["workers"]) == ("running", 2)
    assert told["waiting"] == {"JobArrayTaskLimit": 3}
    assert "2 workers; 3 nodes wait in SLURM (JobArrayTaskLimit)" in ask("status", one.root).out
    assert ask("cancel", one.root).code == 0
    assert "PENDING" not in cluster.jobs().values()
    answer = ask("status", one.root, "--watch")
    assert answer.code == 3
    assert "stopped: user: asked to stop" in answer.out
    until(lambda: not cluster.jobs(), "no job is left", 30)
    assert status(one.root)["last_words"] == [], "cancelled nodes are not accused"
    assert "8 workers on 4 nodes" in ask("resume", one.root, *settings(pattern__delay_s=0)).out
    watch(one)
    assert one.wrong(reference) == []


def test_cancel_now_ends_the_jobs_at_once_also_those_that_were_never_noted(
    new_run: NewRun, cluster: Cluster
) -> None:
    """The machine that submitted died before it wrote the array's id.

    The jobs are known by the run's id in their comment.
    """
    one = new_run()
    assert one.submit(pattern__delay_s=60).code == 0
    (one.root / ".batchgen/jobs/0001/slurm.json").unlink()
    until(lambda: len(one.members(3)) == 1, "its workers are there")
    assert ask("cancel", one.root, "--now").code == 0
    until(lambda: not cluster.jobs(), "no job is left", 30)
    assert status(one.root)["state"] == "stopped"


def test_workers_that_cannot_be_asked_about_are_not_taken_for_dead(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person who looks from a machine without SLURM is told so."""
    one = new_run(nodes=1)
    assert one.submit(pattern__delay_s=2).code == 0
    until(lambda: one.at_work(0), "it is at work")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "/nowhere")
        told = status(one.root)
        assert told["state"] == "running"
        assert "squeue: not found" in told["cause"]
        assert ask("resume", one.root, "--local").code == 2
        answer = ask("cancel", one.root)
        assert answer.code == 1
        assert "the run was asked to stop, and its workers will; " in answer.err
        assert "its jobs could not be cancelled: squeue: not found" in answer.err
    assert ask("status", one.root, "--watch").code == 3


@pytest.mark.parametrize(
    ("profile", "answer"),
    [
        ({"partition": "gpus"}, "invalid partition specified: gpus"),
        ({"constraint": "h100"}, "Invalid feature specification"),
        ({"gpus_per_node": 3}, "Requested node configuration is not available"),
        ({"mem": "1T"}, "Memory specification can not be satisfied"),
        ({"sbatch": ["--no-such-option"]}, "unrecognized option '--no-such-option'"),
    ],
)
def test_what_slurm_refuses_is_told_and_leaves_nothing(
    profile: dict[str, object], answer: str, new_run: NewRun
) -> None:
    one = new_run(**profile)
    told = one.submit()
    assert told.code == 2
    assert "batchgen: SLURM refuses the job: " in told.err
    assert answer in told.err
    assert not one.root.exists()
    manifest = one.root.with_name("run-prompts.parquet")
    planned = ask("plan", manifest, "--rehearse", "--site", one.profile)
    assert planned.code == 2
    assert "SLURM would refuse it: " in planned.err


def test_plan_shows_the_script_that_submit_sends(
    new_run: NewRun, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = new_run()
    monkeypatch.chdir(tmp_path)
    answer = one.submit(pattern__delay_s=0)
    assert answer.code == 0
    words = settings(engine__batch_size=4, shards__pictures=8)
    manifest = one.root.with_name("run-prompts.parquet")
    planned = ask("plan", manifest, "--rehearse", "--site", one.profile, *words)
    assert planned.code == 0
    assert re.search(r"SLURM would take it: Job \d+ to start at .* in partition gpu", planned.out)
    shown = planned.out[planned.out.index("#!/bin/bash") : planned.out.index("SLURM would take it")]
    sent = next(one.root.glob(".batchgen/jobs/0001/submitit/*_submission.sh")).read_text()
    run = str(tmp_path / "runs" / "run-prompts-rehearsal")
    sent = sent.replace(str(one.root), run)
    sent = sent.replace("batchgen-run", "batchgen-run-prompts-rehearsal")
    shown, sent = (re.sub("[0-9a-f]{32}", "ID", text).strip() for text in (shown, sent))
    assert shown == sent


def test_the_commands_of_the_documentation_work(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """They are typed in a folder whose FLUX.1-dev job draws test cards for eight prompts."""
    write_prompts(tmp_path / "prompts.parquet", ["a cat"] * 8)
    for folder in ("jobs", "slurm"):
        (tmp_path / folder).mkdir()
    for name in ("jobs/flux-dev.toml", "flux-dev"):
        (tmp_path / name).write_text('[engine]\nkind = "pattern"\n')
    (tmp_path / "slurm" / "mycluster.toml").symlink_to(new_run().profile)
    (tmp_path / "slurm" / "testcluster.toml").symlink_to(ROOT / "slurm" / "testcluster.toml")
    (tmp_path / "manifests").symlink_to(ROOT / "manifests")
    monkeypatch.chdir(tmp_path)
    readme = (ROOT / "README.md").read_text()
    section = readme.partition("## On a cluster")[2].partition("\n## ")[0]
    text = section + (ROOT / "slurm" / "README.md").read_text()
    commands = re.findall(r"(?m)^\$ batchgen (.*)", text)
    assert len(commands) == 9
    assert commands[0].startswith("doctor ")  # tests/cluster/test_doctor.py
    for command in commands[1:]:
        answer = ask(*shlex.split(command, comments=True))
        assert (answer.code, answer.err) == (0, ""), command


def test_where_workers_never_come_the_reason_can_be_found(
    new_run: NewRun, cluster: Cluster
) -> None:
    setup = ["module() { return 0; }", "module load cuda"]
    one = new_run(nodes=1, setup=setup, python="/no/such/python")
    assert one.submit().code == 0
    until(lambda: not cluster.jobs(), "the job has ended", 60)
    told = ask("status", one.root)
    assert told.code == 5
    reason = "/no/such/python: No such file or directory"
    assert re.search(rf"job \d+ ended before it was a worker: .*{reason}", told.out)
    assert "/no/such/python" in ask("logs", one.root).out


def test_ten_thousand_shards_need_an_array_of_sixteen_nodes(
    new_run: NewRun, cluster: Cluster, tell_recovery: Callable[..., None]
) -> None:
    """They are submitted in seconds, and each worker that gets a node starts once."""
    prompts = [f"a cat {n}" for n in range(10_000)]
    one = new_run(nodes=16)
    began = time.time()
    answer = one.submit(prompts=prompts, shards__pictures=1, engine__batch_size=1)
    taken = time.time() - began
    tell_recovery("submission of 10,000 shards", f"{taken:.1f} s", "")
    assert "10,000 pictures in 10,000 shards" in answer.out
    assert "32 workers on 16 nodes submitted to SLURM as " in answer.out
    assert len(cluster.jobs()) == 16
    until(lambda: status(one.root)["shards_done"] >= 100, "a hundred shards are done")
    assert ask("cancel", one.root).code == 0
    assert ask("status", one.root, "--watch").code == 3
    assert all(len(one.members(worker)) <= 1 for worker in range(32))
    claims = [path.name for path in one.root.glob(".batchgen/claims/*/*")]
    assert [name for name in claims if not name.endswith((".0001", ".free"))] == []
    assert taken < 10 * max(1.0, os.getloadavg()[0] / 2)


def test_without_sbatch_nothing_is_planned(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = new_run()
    monkeypatch.setenv("PATH", "/nowhere")
    told = one.submit()
    assert (told.code, one.root.exists()) == (2, False)
    where = "Type the command on a machine of the cluster; without --site"
    assert f"sbatch: not found. {where}" in told.err
