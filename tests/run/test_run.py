"""A run is planned once, opened by everyone after, and never becomes another."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen import durable
from batchgen.checked_json import seal, unseal
from batchgen.errors import DamagedRun, JobError, OutputError, PlanChanged
from batchgen.planning.hardware import Hardware
from batchgen.planning.identity import fingerprint, identify_run
from batchgen.planning.planner import dry_run, locate_model
from batchgen.run import run as run_module
from batchgen.run.run import Run, create, load_plan, open_run, pin_identity
from batchgen.settings.audit import Audit
from batchgen.settings.job import load_job
from batchgen.shard import read_shard
from tests.support.rehearsal import write_prompts
from tests.support.specimens import planned

# A card that holds not even the libraries.
SMALL = Hardware(True, "a small card", 10**6, (9, 0), ("0",))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return planned(tmp_path, ["a cat", "a dog", "a fox"], images=[2, 1, 4])


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_new_run_has_a_plan_and_nothing_to_read(run: Run) -> None:
    inner = ["job.toml", "plan.json", "reserve"]
    assert files(run.directory.root) == [f".batchgen/{name}" for name in inner]
    assert (run.plan.rows, run.plan.pictures, len(run.plan.shards), run.plan.groups) == (3, 7, 2, 4)
    assert run.plan.fingerprint == fingerprint(run.plan.identity)


def test_the_same_submit_again_opens_the_run_it_made(run: Run) -> None:
    again, new = create(run.directory.root, run.plan.manifest, run.job, None)
    assert not new
    assert again.plan == run.plan
    assert again.job == run.job


def test_a_rehearsal_and_a_real_run_have_no_place_in_each_other(run: Run, tmp_path: Path) -> None:
    real, checkpoint = locate_model(load_job(None))
    with pytest.raises(PlanChanged, match="is a rehearsal: its pictures are test cards"):
        create(run.directory.root, run.plan.manifest, real, checkpoint)
    other, _ = create(tmp_path / "real", run.plan.manifest, real, checkpoint)
    with pytest.raises(PlanChanged, match=r"is a real run, .* Leave --out away"):
        create(other.directory.root, run.plan.manifest, run.job, None)


def test_a_moved_manifest_of_the_same_content_is_the_same_run(run: Run, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere.parquet"
    copy.write_bytes(Path(run.plan.manifest[0]).read_bytes())
    _, new = create(run.directory.root, [copy], run.job, None)
    assert not new


def test_operations_may_change_at_every_resume_and_stay_changed(run: Run) -> None:
    changed = open_run(run.directory.root, ["run.workers=3", "pattern.delay_s=0.5"])
    for opened in (changed, open_run(run.directory.root)):
        assert (opened.job.run.workers, opened.job.pattern.delay_s) == (3, 0.5)


def test_an_audit_may_change_at_every_resume_and_stays_changed(tmp_path: Path) -> None:
    root = planned(tmp_path, ["a cat"], "cache.policy=multistep").directory.root
    changed = open_run(root, ["audit.fraction=0.5", "audit.min_psnr=40", "audit.action=stop"])
    assert changed.job.audit == Audit(fraction=0.5, min_psnr=40.0, action="stop")
    assert open_run(root, ["audit.action=warn"]).job.audit == open_run(root).job.audit
    assert open_run(root).job.audit == Audit(fraction=0.5, min_psnr=40.0)


def test_an_audit_of_a_run_without_a_cache_is_refused_at_a_resume(run: Run) -> None:
    with pytest.raises(JobError, match=r"audit\.fraction would have no effect"):
        open_run(run.directory.root, ["audit.fraction=0.5"])
    assert open_run(run.directory.root).job.audit == Audit()


def test_a_refused_override_leaves_the_job_as_it_was(run: Run) -> None:
    before = run.directory.job.read_bytes()
    with pytest.raises(PlanChanged, match=r"sampling\.steps: 28 → 5"):
        open_run(run.directory.root, ["run.workers=3", "sampling.steps=5"])
    assert run.directory.job.read_bytes() == before


def test_a_job_edited_in_the_run_folder_is_refused_by_resume_and_submit(run: Run) -> None:
    edited = run.directory.job.read_text().replace("quality = 95", "quality = 94")
    run.directory.job.write_text(edited)
    with pytest.raises(PlanChanged, match=r"output\.quality: 95 → 94"):
        open_run(run.directory.root)
    with pytest.raises(PlanChanged, match=r"output\.quality: 95 → 94"):
        create(run.directory.root, run.plan.manifest, run.job, None)


def test_a_run_survives_any_text_in_its_job(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"], "sampling.negative_prompt='no 🐈, no \"quotes\" \\'")
    assert open_run(run.directory.root).job == run.job


def test_a_dry_run_plans_the_same_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"] * 9)
    job = load_job(None, ["engine.kind=pattern"])
    plan, made = dry_run([file], job, None), create(tmp_path / "run", [file], job, None)[0].plan
    assert plan.fingerprint == made.fingerprint
    assert (plan.shards, plan.groups) == (made.shards, made.groups)
    assert files(temporary) == []


@pytest.mark.parametrize("name", ["prompts.parquet", "prompts.csv"])
def test_a_plan_that_the_devices_cannot_make_leaves_nothing_behind(
    tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    if name.endswith("csv"):
        file.write_text("prompt\na cat\n")
    else:
        write_prompts(file, ["a cat"])
    with pytest.raises(JobError, match="a small card has 1 MB"):
        create(tmp_path / "run", [file], *locate_model(load_job(None)), hardware=SMALL)
    assert not (tmp_path / "run").exists()


def test_a_refused_submit_takes_nothing_of_a_run_that_another_made_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, root = tmp_path / "prompts.csv", tmp_path / "run"
    file.write_text("prompt\na cat\n")
    job, _ = locate_model(load_job(None, ["engine.kind=pattern"]))
    refuse = run_module.refuse_unfit

    def make_the_run_and_refuse(*_: object) -> None:
        monkeypatch.setattr(run_module, "refuse_unfit", refuse)
        (root / ".batchgen" / "manifest.parquet").rename(tmp_path / "mine.parquet")
        create(root, [file], job, None)
        raise JobError("no")

    monkeypatch.setattr(run_module, "refuse_unfit", make_the_run_and_refuse)
    with pytest.raises(JobError):
        create(root, [file], job, None)
    assert open_run(root).plan.pictures == 1


def test_a_run_that_goes_on_is_checked_against_the_devices_again(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    located = locate_model(load_job(None))
    create(tmp_path / "run", [file], *located)
    with pytest.raises(JobError, match="a small card has 1 MB"):
        create(tmp_path / "run", [file], *located, hardware=SMALL)


def test_a_csv_manifest_is_converted_into_the_run_and_known_by_its_own_content(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("prompt,images\na cat,2\na dog,\n")
    job = load_job(None, ["engine.kind=pattern"])
    run, _ = create(tmp_path / "run", [file], job, None)
    assert [source.path for source in run.plan.sources] == [str(run.directory.manifest)]
    assert run.plan.pictures == 3
    assert run.plan.identity["manifest"] == [hashlib.sha256(file.read_bytes()).hexdigest()]
    file.write_text("prompt,images\na cat,2\na pig,\n")
    with pytest.raises(PlanChanged, match="manifest: "):
        create(tmp_path / "run", [file], job, None)


def test_the_columns_that_are_read_belong_to_the_run_and_stay_at_every_resume(
    tmp_path: Path,
) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("caption;seeds\na cat;7\n")
    job = load_job(None, ["engine.kind=pattern"], ["prompt=caption", "seed=seeds"])
    run, _ = create(tmp_path / "run", [file], job, None)
    assert run.plan.columns == {"prompt": "caption", "seed": "seeds"}
    assert run.plan.read_as == "CSV separated by semicolons, UTF-8"
    opened = open_run(tmp_path / "run")
    ((made,),), _ = read_shard(opened, 0)
    assert (made.prompt, made.seed) == ("a cat", 7)
    other = load_job(None, ["engine.kind=pattern"], ["prompt=caption", "seeds="])
    with pytest.raises(PlanChanged, match=r'columns.seed: "seeds" → null'):
        create(tmp_path / "run", [file], other, None)
    with pytest.raises(PlanChanged, match=r"columns\.prompt: "):
        open_run(tmp_path / "run", ["manifest.columns.prompt=seeds"])


def test_no_shard_is_read_from_a_manifest_that_was_edited_in_the_middle_of_the_run(
    tmp_path: Path,
) -> None:
    """It has as many rows as before, so that a worker would have made pictures of other prompts."""
    file = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["a cat"]}), file)
    run, _ = create(tmp_path / "run", [file], load_job(None, ["engine.kind=pattern"]), None)
    opened = open_run(tmp_path / "run")
    assert run.plan.pictures == 1
    pq.write_table(pa.table({"prompt": ["a cat, edited"]}), file)
    with pytest.raises(PlanChanged, match=r"changed since planning: .* bytes then, "):
        read_shard(opened, 0)


def test_a_run_that_asked_no_question_about_its_columns_goes_on(tmp_path: Path) -> None:
    """Its plan has no such field, and a submit that lets the column travel finds the same run."""
    file = tmp_path / "prompts.parquet"
    pq.write_table(pa.table({"prompt": ["a cat"], "seeds": [7]}), file)
    travel = load_job(None, ["engine.kind=pattern"], ["seeds="])
    run, _ = create(tmp_path / "run", [file], travel, None)
    written = run.directory.job.read_text().replace('[manifest.columns]\nseeds = ""\n', "")
    durable.replace(run.directory.job, written.encode())
    ((made,),), _ = read_shard(open_run(tmp_path / "run"), 0)
    assert made.extra == '{"seeds":7}'
    assert not create(tmp_path / "run", [file], travel, None)[1]


def test_empty_files_between_full_ones_do_not_disturb_the_cut(tmp_path: Path) -> None:
    for name, prompts in {"a": ["a cat"] * 3, "b": [], "c": ["a dog"] * 3}.items():
        steps = pa.array([4] * len(prompts), pa.int64())
        table = pa.table({"prompt": pa.array(prompts, pa.string()), "steps": steps})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    job = load_job(None, ["engine.kind=pattern", "shards.pictures=4"])
    run, _ = create(tmp_path / "run", [tmp_path], job, None)
    assert [tuple(shard) for shard in run.plan.shards] == [(0, 4, 0, 0), (4, 2, 4, 0)]


def test_the_first_engine_is_pinned_and_another_kind_is_refused(run: Run) -> None:
    pin_identity(run.directory, "cuda NVIDIA H200, bf16")
    pin_identity(run.directory, "cuda NVIDIA H200, bf16")
    told = "computed on 'cuda NVIDIA H200, bf16', and this worker has 'cpu, fp32'"
    with pytest.raises(PlanChanged, match=told):
        pin_identity(run.directory, "cpu, fp32")


def test_a_plan_of_another_version_is_refused(run: Run) -> None:
    plan = unseal(run.directory.plan.read_bytes())
    run.directory.plan.write_bytes(seal(plan | {"version": 0}))
    with pytest.raises(DamagedRun, match="another version of batchgen"):
        load_plan(run.directory)


@pytest.mark.parametrize("policy", ["first_block", "teacache", "adacache", "schedule", "multistep"])
def test_a_cached_run_of_an_older_version_is_not_resumed_with_other_pictures(
    tmp_path: Path, policy: str
) -> None:
    """It extrapolated residuals, or chose steps by relative errors.

    Its own version may finish it; when finished, it can be opened.
    """
    skip = ["cache.skip=[3]"] if policy == "schedule" else []
    job, checkpoint = locate_model(load_job(None, [f"cache.policy={policy}", *skip]))
    run, _ = create(
        tmp_path / "run", [write_prompts(tmp_path / "m.parquet", ["a cat"])], job, checkpoint
    )
    directory = run.directory
    assert open_run(directory.root).plan == run.plan
    plan = unseal(directory.plan.read_bytes())
    made_by = {"multistep": ("errors", "absolute")}.get(policy, ("extrapolates", "velocity"))
    assert plan["identity"]["cache"].pop(made_by[0]) == made_by[1]
    plan["fingerprint"] = fingerprint(plan["identity"])
    plan["software"]["batchgen"] = "0.1.0"
    directory.plan.write_bytes(seal(plan))
    for open_again in (
        lambda: open_run(directory.root),
        lambda: create(directory.root, run.plan.manifest, job, checkpoint),
    ):
        with pytest.raises(PlanChanged, match=rf"begun by batchgen 0\.1\.0, .*{policy}.*Finish it"):
            open_again()
    directory.index.parent.mkdir(parents=True, exist_ok=True)
    directory.index.write_text("{}")
    assert open_run(directory.root).plan.software["batchgen"] == "0.1.0"
    other = load_job(None, [f"cache.policy={policy}", *skip, "sampling.steps=9"])
    with pytest.raises(PlanChanged, match=r"sampling\.steps"):
        create(directory.root, run.plan.manifest, *locate_model(other))


def test_runs_that_older_versions_made_as_this_one_does_have_the_identity_they_had() -> None:
    assert not {"extrapolates", "errors"} & identify_run(load_job(None), [], {})["cache"].keys()


def test_of_two_submits_at_once_one_makes_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other is told, although it planned the same."""
    durable_create = durable.create

    def create_all_but_the_plan(path: Path, data: bytes) -> bool:
        return path.name != "plan.json" and durable_create(path, data)

    monkeypatch.setattr(durable, "create", create_all_but_the_plan)
    told = r"another submit has just made this run\. Continue it with: batchgen resume"
    with pytest.raises(OutputError, match=told):
        planned(tmp_path)


def test_a_planning_that_was_killed_leaves_nothing_in_the_way(run: Run) -> None:
    """Folders and the job exist, the plan does not."""
    run.directory.plan.unlink()
    again, new = create(run.directory.root, run.plan.manifest, run.job, None)
    assert new
    assert again.plan.fingerprint == run.plan.fingerprint


def test_a_file_system_without_hard_links_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_source: object, _target: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    told = r"cannot hold a run: Operation not permitted.*hard links"
    with pytest.raises(OutputError, match=told):
        planned(tmp_path)
