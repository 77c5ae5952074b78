"""Python does what the command line does, and is refused what it refuses."""

import importlib
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import batchgen
from batchgen.errors import InputError, JobError, StillRunning

PROMPTS = [f"a red circle, number {number}" for number in range(12)]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    pq.write_table(
        # Pictures of one size stand together in a shard.
        pa.table({"caption": PROMPTS, "mood": ["calm"] * 12, "width": [32, 16] * 6}),
        tmp_path / "prompts.parquet",
    )
    return tmp_path / "prompts.parquet"


@pytest.mark.slow
def test_a_run_is_made_watched_and_read_from_python(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"shards.pictures": 8, "run.workers": 1, "sampling.steps": 2}
    asked = partial(
        batchgen.submit,
        out=tmp_path / "run",
        columns={"prompt": "caption"},
        settings=settings,
        rehearse=True,
    )
    run = asked(manifest)
    seen = run.wait(timeout_s=60)
    assert (seen.state, seen.ok) == ("complete", 12)
    assert capsys.readouterr() == ("", "")
    assert run.status().to_json().startswith("{")
    assert [tar.name for tar in run.tars()] == ["000000.tar", "000001.tar"]
    records = run.records(["prompt", "extra", "key"])
    assert records.column_names == ["prompt", "extra", "key"]
    assert records["prompt"].to_pylist() == PROMPTS
    assert records["extra"].to_pylist() == [{"mood": "calm"}] * 12
    assert run.records().num_rows == 12
    with pytest.raises(InputError, match=r"no column colour; they have key, index"):
        run.records(["colour"])
    assert asked([manifest]) == run == batchgen.attach(tmp_path / "run") == batchgen.resume(run)


def test_records_of_a_run_without_published_shards_are_an_empty_table(
    manifest: Path, tmp_path: Path
) -> None:
    run = batchgen.submit(
        manifest,
        out=tmp_path / "run",
        columns={"prompt": "caption"},
        settings={"pattern.delay_s": 30.0, "run.workers": 1},
        rehearse=True,
    )
    assert run.records(["key", "psnr"]).schema.names == ["key", "psnr"]
    assert run.status().state in ("running", "queued")
    with pytest.raises(StillRunning, match="bring more workers"):
        batchgen.resume(run)
    run.cancel(now=True)
    assert run.wait(timeout_s=30).state == "stopped"


def test_what_the_command_line_refuses_is_refused_with_its_message(manifest: Path) -> None:
    with pytest.raises(JobError, match=r"sampling\.stepz"):
        batchgen.submit(manifest, settings={"sampling.stepz": 4})
    with pytest.raises(InputError, match="expected values of TOML"):
        batchgen.submit(manifest, settings={"sampling.steps": None})
    with pytest.raises(InputError, match="at least one file"):
        batchgen.submit([])


def test_importing_batchgen_imports_nothing_else() -> None:
    code = (
        "import sys, batchgen; heavy = {'pyarrow', 'pydantic', 'numpy', 'torch', 'submitit'};"
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_scripts_are_type_checked_against_the_package(tmp_path: Path) -> None:
    """Names that are misspelt are not taken for whatever one likes."""
    script = tmp_path / "script.py"
    script.write_text(
        "import batchgen\n"
        'run = batchgen.submit("prompts.parquet", settings={"sampling.steps": 4})\n'
        "reveal_type(run.wait().ok)\n"
        "reveal_type(run.dataset())\n"
        "batchgen.sumbit\n"
        "run.wait(timeout=4)\n"
    )
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        "--follow-imports=silent",
    ]
    source = {**os.environ, "MYPYPATH": str(Path(batchgen.__file__).parents[1])}
    checked = subprocess.run(
        [*command, script.name],
        cwd=tmp_path,
        env=source,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = checked.stdout.splitlines()
    told = [line.partition(": ")[2] for line in lines if line.startswith("script.py")]
    assert told[:2] == [
        'note: Revealed type is "int"',
        'note: Revealed type is "batchgen.dataset.loader.Pictures"',
    ]
    assert 'Module has no attribute "sumbit"' in told[2]
    assert 'Unexpected keyword argument "timeout"' in told[3]


def test_what_is_public_is_offered_and_there() -> None:
    assert dir(batchgen) == sorted(batchgen.__all__)
    assert all(hasattr(batchgen, name) for name in dir(batchgen))
    assert issubclass(InputError, batchgen.BatchgenError)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'sumbit'"):
        batchgen.sumbit  # noqa: B018


def test_a_pickle_of_an_older_version_does_not_hide_the_function(tmp_path: Path) -> None:
    importlib.import_module("batchgen.submit")
    with pytest.raises(InputError, match="no such file"):
        batchgen.submit(tmp_path / "gone.parquet")
