"""A schedule file belongs to a model and to classes of pictures, and its content to the run."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from batchgen.errors import JobError, PlanChanged
from batchgen.planning import encode_schedule, identify_run
from batchgen.planning.identity import fingerprint
from batchgen.planning.planner import dry_run, locate_model
from batchgen.planning.schedule_file import ModelDigest
from batchgen.run import create, open_run
from batchgen.settings import ClassSchedule, Job, PictureClass, load_job
from tests.support.rehearsal import write_prompts


def class_of(computed: tuple[int, ...] = (0, 11, 19, 23, 26), **given: object) -> ClassSchedule:
    values = {"pixels": 2**14, "steps": 28, "negative_prompt": False, "errors": (0.1,) * 4}
    return ClassSchedule.model_validate({"computed": computed, **values, **given})


def write(path: Path, *classes: ClassSchedule) -> Path:
    model = ModelDigest.of(*locate_model(load_job(None)))
    path.write_bytes(encode_schedule(model, "a test", classes or [class_of()]))
    return path


def job_with(path: Path, *settings: str, policy: str = "schedule") -> Job:
    return load_job(None, [f"cache.policy={policy}", f"cache.schedule={path}", *settings])


@pytest.mark.parametrize("policy", ["schedule", "multistep"])
def test_a_located_job_has_what_the_file_says(tmp_path: Path, policy: str) -> None:
    classes = class_of(), class_of(negative_prompt=True)
    path = write(tmp_path / "s.json", *classes)
    assert len(path.read_text().splitlines()) == 11  # a line a class, for people
    job, _ = locate_model(job_with(path, policy=policy))
    assert (job.cache.schedule, job.cache.classes) == ("", classes)


def test_a_file_of_another_layout_says_the_same(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3))
    assert locate_model(job_with(path))[0].cache.classes == (class_of(),)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("11", "12", "does not have the checksum"),
        ('"checksum"', '"sum"', "it has no checksum"),
        ("{", "[", "Expecting"),
        ('"version": 1', '"version": 2', "checksum"),
    ],
)
def test_a_changed_file_is_refused_by_name_with_what_to_do(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    path = write(tmp_path / "s.json")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(JobError, match=rf"s\.json.*{told}.*batchgen calibrate MANIFEST"):
        locate_model(job_with(path))


def test_a_missing_file_and_two_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"s\.json\": no such file\. .*batchgen calibrate"):
        locate_model(job_with(tmp_path / "s.json"))
    with pytest.raises(JobError, match=r"cache\.skip each say which steps"):
        locate_model(job_with(write(tmp_path / "s.json"), "cache.skip=[3]"))


def test_another_model_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "s.json")
    tiny = locate_model(load_job(None))[1].folder  # type: ignore[union-attr]
    shutil.copytree(tiny, tmp_path / "same")
    assert locate_model(job_with(path, f"model.path={tmp_path}/same"))[0].cache.classes
    path.write_bytes(encode_schedule(ModelDigest("mine", "0" * 64), "a test", [class_of()]))
    with pytest.raises(JobError, match=r"model mine \(digest 0{12}\), and the job's is tiny"):
        locate_model(job_with(path))


def test_pictures_of_other_classes_are_refused_with_their_first_row(tmp_path: Path) -> None:
    rows = {"steps": [28, 20, 28, 20], "width": [128, 128, 192, 144], "height": [128] * 4}
    columns = {name: pa.array(values) for name, values in rows.items()}
    manifest = write_prompts(tmp_path / "p.parquet", ["a cat"] * 4, **columns)
    located = locate_model(job_with(write(tmp_path / "s.json")))
    with pytest.raises(JobError) as refused:
        dry_run([manifest], *located)
    told = str(refused.value)
    assert "2 pictures of about 128×128 px, 20 steps, without negative prompt" in told
    assert "the first is in row 1 " in told
    assert "1 picture of about 181×181 px, 28 steps" in told
    assert "the first is in row 2 " in told
    assert "It has classes of about 128×128 px, 28 steps, without" in told
    fitting = write_prompts(tmp_path / "q.parquet", ["a cat"])
    assert dry_run([fitting], *located).pictures == 1


def test_the_fingerprint_covers_the_content_and_not_the_path(tmp_path: Path) -> None:
    def print_of(path: Path) -> str:
        job, checkpoint = locate_model(job_with(path))
        return fingerprint(identify_run(job, ("m",), checkpoint.identity if checkpoint else {}))

    one = print_of(write(tmp_path / "s.json"))
    assert print_of(write(tmp_path / "t.json")) == one
    assert print_of(write(tmp_path / "u.json", class_of((0, 12, 19, 23, 26)))) != one


def test_a_run_keeps_its_schedule_when_the_file_is_gone_and_refuses_another(tmp_path: Path) -> None:
    manifest = write_prompts(tmp_path / "p.parquet", ["a cat"])
    path = write(tmp_path / "s.json")
    create(tmp_path / "r", [manifest], *locate_model(job_with(path)))
    path.unlink()
    assert open_run(tmp_path / "r").job.cache.classes == (class_of(),)
    other = write(tmp_path / "t.json", class_of((0, 12, 19, 23, 26)))
    with pytest.raises(PlanChanged, match=r"cache\.classes"):
        create(tmp_path / "r", [manifest], *locate_model(job_with(other)))
    same = write(tmp_path / "u.json")
    assert not create(tmp_path / "r", [manifest], *locate_model(job_with(same)))[1]


def test_sizes_are_of_one_class_if_their_pixels_are_nearest_to_one_power_of_two() -> None:
    def size(width: int, height: int) -> int:
        return PictureClass.of(width, height, 28, negative=False).pixels

    assert size(1024, 1024) == size(1152, 896) == size(896, 1152) == 2**20
    assert size(512, 512) == 2**18
    assert size(192, 128) == size(128, 192) == 2**15
