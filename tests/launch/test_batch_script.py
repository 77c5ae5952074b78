"""The batch script asks for what the profile says, and jobs that do not fit are refused."""

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

from batchgen import slurm
from batchgen.errors import SchedulerSilent, SiteError
from batchgen.launch.batch_script import script
from batchgen.launch.elements import count_elements, refuse_misfit, refuse_shape
from batchgen.launch.slurm_array import portions
from batchgen.settings.job import load_job, parse_job
from batchgen.settings.site import Site

PLAIN = Site(gpus_per_node=8, time="12:00:00", nodes=4)
FULL = Site(
    partition="gpu",
    account="me",
    qos="low",
    constraint="h100",
    nodes=4,
    max_running=2,
    gpus_per_node=8,
    workers_per_node=4,
    cpus_per_gpu=6,
    mem="480G",
    time="1-0:30",
    signal_s=300,
    requeue=False,
    setup=("module load cuda",),
    python="apptainer exec image.sif python",
    sbatch=("--exclusive", "--exclude=node7"),
    srun=("--cpu-bind=cores",),
    comment="for the accountants",
)


def lines(site: Site, root: str = "/runs/my run", elements: int = 4) -> list[str]:
    return script(site, Path(root), "abc", elements).splitlines()


def options(site: Site, **given: int) -> set[str]:
    return {
        line.removeprefix("#SBATCH --")
        for line in lines(site, **given)
        if line.startswith("#SBATCH")
    }


def test_a_plain_profile_asks_for_what_it_says_and_no_more() -> None:
    output = "output='/runs/my run/.batchgen/jobs/0001/submitit/%A_%a_0_log.out'"
    named = {"job-name='batchgen-my run'", "comment=batchgen:abc:1", output, "open-mode=append"}
    shape = {"array=0-3%4", "nodes=1", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=4"}
    assert options(PLAIN) == named | shape | {"time=720", "signal=USR2@120", "requeue"}


def test_every_key_of_a_profile_arrives() -> None:
    where = {"partition=gpu", "account=me", "qos=low", "constraint=h100", "array=0-3%2"}
    shape = {"gpus-per-node=8", "ntasks-per-node=4", "cpus-per-task=6", "mem=480G", "time=1470"}
    other = {"signal=USR2@300", "no-requeue", "exclusive", "exclude=node7"}
    comment = {"comment='batchgen:abc:1 for the accountants'"}
    assert where | shape | other | comment <= options(FULL)
    text = lines(FULL)
    assert "module load cuda" in text
    (srun,) = (line for line in text if line.startswith("srun "))
    started = "--cpus-per-task=6 --cpu-bind=cores apptainer exec image.sif python -P -u -m submitit"
    assert f"--kill-on-bad-exit=1 --wait=0 {started}" in srun


def test_gpus_are_asked_for_as_the_site_wants() -> None:
    named = options(PLAIN.model_copy(update={"gres": "gpu:h100:8"}))
    assert "gres=gpu:h100:8" in named
    assert not any(name.startswith("gpus") for name in named)
    none = options(Site(gpus_per_node=0, workers_per_node=16, time="1:00"))
    assert "ntasks-per-node=16" in none
    assert not any(name.startswith(("gpus", "gres")) for name in none)


def test_the_first_line_asks_whether_the_node_sees_the_run_after_all_is_set_up() -> None:
    text = lines(FULL)
    check = "-m batchgen.launch.node_check '/runs/my run' abc 1 || exit"
    ask = text.index(f"apptainer exec image.sif python -P {check}")
    assert text.index("module load cuda") < ask < text.index("export SUBMITIT_EXECUTOR=slurm")


def test_an_element_has_as_many_nodes_as_a_replica_fills() -> None:
    """Replicas of 16 ranks on nodes of 8: two elements of four nodes."""
    site = PLAIN.model_copy(update={"max_running": 2})
    shapes = [(site.span(ranks), site.workers(ranks)) for ranks in (1, 4, 8, 16)]
    assert shapes == [(1, 8), (1, 2), (1, 1), (2, 1)]
    assert [count_elements(site, ranks, shards=100) for ranks in (1, 4, 8, 16)] == [4, 4, 4, 2]
    assert [count_elements(site, ranks, shards=3) for ranks in (1, 2, 8, 16)] == [1, 1, 3, 2]
    text = set(script(site, Path("/runs/big"), "abc", 2, 16).splitlines())
    assert {"#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=8", "#SBATCH --array=0-1%1"} <= text


def test_one_node_is_no_array() -> None:
    assert not any(name.startswith("array") for name in options(PLAIN, elements=1))


def test_the_last_lines_requeue_this_element_and_not_the_array() -> None:
    code, decide, leave = lines(FULL)[-3:]
    assert (code, leave) == ("code=$?", "exit $code")
    ask, _, requeue = decide.partition(" && ")
    element = "$((0 + ${SLURM_ARRAY_TASK_ID:-0}))"
    module = "apptainer exec image.sif python -P -m batchgen.launch.requeue"
    assert ask == f"{module} '/runs/my run' 1 {element} $code"
    job, suffix = (
        "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}",
        "${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}",
    )
    assert requeue == f'scontrol requeue "{job}{suffix}"'


@pytest.mark.parametrize(
    ("elements", "most"), [(1, 1), (4, 100), (100, 100), (101, 100), (1000, 101), (7, 2)]
)
def test_arrays_are_split_evenly_where_they_are_too_long(elements: int, most: int) -> None:
    split = list(portions(elements, most))
    assert [first for first, _ in split][:1] == [0]
    assert all(first + count == following for (first, count), (following, _) in pairwise(split))
    assert sum(count for _, count in split) == elements
    assert max(count for _, count in split) <= most
    assert len(split) == -(-elements // most)


def test_a_job_that_does_not_fit_the_site_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cpu = Site(gpus_per_node=0, workers_per_node=1, time="1:00")
    monkeypatch.setenv("PATH", "/nowhere")
    where = r"sbatch: not found\. Type the command on a machine of the cluster; without --site"
    with pytest.raises(SiteError, match=where):
        refuse_misfit(cpu, parse_job({}, ""))
    (tmp_path / "sbatch").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    refuse_misfit(cpu, parse_job({}, ""))
    none = r'engine\.device = "cuda", and the site profile says gpus_per_node = 0'
    with pytest.raises(SiteError, match=none):
        refuse_misfit(cpu, parse_job({"engine": {"device": "cuda"}}, ""))
    limit = r"run\.time_limit_s is for runs on this machine.* set time in the site profile"
    with pytest.raises(SiteError, match=limit):
        refuse_misfit(PLAIN, parse_job({"run": {"time_limit_s": 60.0}}, ""))
    workers = r"run\.workers = 3 is for runs on this machine.* set nodes and workers_per_node"
    with pytest.raises(SiteError, match=workers):
        refuse_misfit(PLAIN, load_job(None, ["run.workers=3"]))
    refuse_misfit(PLAIN, load_job(None, ["run.workers=auto"]))


def test_a_replica_of_two_halves_fills_as_many_tasks_as_both_have() -> None:
    both = parse_job({"parallel": {"cp": 4, "cfg": 2}}, "")
    refuse_shape(PLAIN, both)
    assert PLAIN.workers(both.parallel.degree) == 1
    with pytest.raises(SiteError, match=r"parallel\.cp \* parallel\.cfg = 3 \* 2 = 6, and the"):
        refuse_shape(PLAIN, parse_job({"parallel": {"cp": 3, "cfg": 2}}, ""))


@pytest.mark.parametrize(
    ("cp", "profile", "answer"),
    [
        (3, {}, r"cp = 3, and the site profile has 8 tasks a node: neither divides the other"),
        (12, {}, r"cp = 12, and the site profile has 8 tasks a node: neither divides the other"),
        (16, {"nodes": 3}, r"nodes = 3: parallel\.cp = 16 fills 2 nodes .* take a multiple of 2"),
        (16, {"nodes": 4, "max_running": 1}, r"max_running = 1: .* multiple of 2"),
        (4, {}, ""),
        (32, {"nodes": 8}, ""),
    ],
)
def test_a_replica_that_does_not_fit_the_nodes_is_refused(
    cp: int, profile: dict[str, int], answer: str
) -> None:
    site, job = PLAIN.model_copy(update=profile), parse_job({"parallel": {"cp": cp}}, "")
    if not answer:
        refuse_shape(site, job)
        return
    with pytest.raises(SiteError, match=answer):
        refuse_shape(site, job)


def test_a_job_submitted_from_within_a_job_inherits_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It keeps the cluster that is meant, and presets that the profile leaves open."""
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_ARRAY_TASK_ID": "3",
        "SRUN_CPUS_PER_TASK": "2",
        "SLURMD_NODENAME": "node1",
        "SUBMITIT_EXECUTOR": "slurm",
    }
    kept = {"SLURM_CONF": "/etc/slurm.conf", "SBATCH_ACCOUNT": "me"}
    preset = {"SBATCH_PARTITION": "cpu"}
    for name, value in (job | kept | preset).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with slurm.outside_of_a_job("#SBATCH --partition=gpu"):
        assert {name for name in job | kept | preset if name in os.environ} == set(kept)
    assert dict(os.environ) == before


def test_what_slurm_thinks_of_a_script_is_passed_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sbatch = tmp_path / "sbatch"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    sbatch.touch(mode=0o755)
    sbatch.write_text("#!/bin/sh\ncat > /dev/null\necho 'sbatch: Job 7 to start at noon' >&2")
    assert slurm.test_only("#!/bin/sh") == "Job 7 to start at noon"
    refusal = "allocation failure: invalid partition"
    sbatch.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{refusal}' >&2; exit 1")
    with pytest.raises(SiteError, match=f"SLURM would refuse it: sbatch failed: {refusal}"):
        slurm.test_only("#!/bin/sh")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SchedulerSilent, match="sbatch: not found"):
        slurm.test_only("#!/bin/sh")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("--ntasks=1", "the tasks follow from gpus_per_node"),
        ("-n4", "the tasks follow from gpus_per_node"),
        ("-N", "the tasks follow from gpus_per_node"),
        ("--cpus-per-task=9", "set cpus_per_gpu instead"),
        ("-o/tmp/log", "batchgen names the logs"),
        ("--wait=60", "batchgen decides what follows a task's death"),
        ("--help", "srun would start no worker"),
        ("--export=NONE", "workers need the environment of the batch script"),
        ("--export=PATH,HOME", "workers need the environment of the batch script"),
    ],
)
def test_options_of_srun_that_cannot_work_are_refused(option: str, why: str) -> None:
    site = PLAIN.model_copy(update={"srun": ("--cpu-bind=cores", option)})
    with pytest.raises(SiteError, match=re.escape(why)) as refused:
        refuse_shape(site, parse_job({}, ""))
    assert f"srun = [{option!r}]" in str(refused.value)


@pytest.fixture
def srun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An srun that knows no option --none-such, and starts what it is given."""
    program = tmp_path / "srun"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n[ -e {tmp_path}/broken ] && exit 1\n'
        'case "$*" in *none-such*) echo "srun: unrecognized option" >&2; exit 1;; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    return program


def test_srun_itself_is_asked_about_options_before_anything_is_submitted(srun: Path) -> None:
    def refused(*options: str) -> str:
        try:
            refuse_shape(PLAIN.model_copy(update={"srun": options}), parse_job({}, ""))
        except SiteError as error:
            return str(error)
        return ""

    told = "srun = ['--none-such'] in the site profile: srun failed: srun: unrecognized option"
    assert refused("--none-such") == told
    assert refused("--export=ALL,FOO=1", "--overlap") == refused() == ""
    asked = (srun.parent / "asked").read_text().splitlines()
    assert asked == ["--none-such --help", "--help", "--export=ALL,FOO=1 --overlap --help"]
    assert refused("--mpi", "pmix") == "", "srun would start a program named pmix"
    (srun.parent / "broken").touch()
    assert refused("--none-such") == "", "srun works on no machine here, whatever the options"


def test_tasks_have_the_environment_of_the_script_also_if_the_script_has_a_bare_one() -> None:
    """srun hides everything from its tasks while SLURM_EXPORT_ENV says NONE."""
    text = lines(PLAIN.model_copy(update={"sbatch": ("--export=NONE",)}))
    assert "#SBATCH --export=NONE" in text
    assert "unset SLURM_EXPORT_ENV" in text[: text.index("export SUBMITIT_EXECUTOR=slurm")]
