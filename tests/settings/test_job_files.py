"""Every ready job file loads, FLUX.1 can do what it asks for, and its comment is true."""

import json
import re
import shlex
from pathlib import Path

import pytest

from batchgen.errors import JobError
from batchgen.model.checkpoint import Checkpoint
from batchgen.planning.preflight import refuse_impossible
from batchgen.settings.job import load_job

ROOT = Path(__file__).parents[2]
FILES = sorted([*(ROOT / "jobs").glob("*.toml"), *(ROOT / "benchmarks" / "jobs").rglob("*.toml")])
PUBLISHED = [path for path in FILES if path.parent.name in ("paraattention", "hybrid")]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """FLUX.1, as far as planning asks."""
    folder = tmp_path_factory.mktemp("flux")
    (folder / "transformer").mkdir()
    config = {"num_attention_heads": 24, "num_layers": 19, "num_single_layers": 38}
    config |= {"in_channels": 64, "attention_head_dim": 128, "joint_attention_dim": 4096}
    config |= {"pooled_projection_dim": 768, "guidance_embeds": True}
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    return Checkpoint(folder, "flux", {})


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_job_file_loads(path: Path) -> None:
    load_job(path)


@pytest.mark.parametrize("path", FILES, ids=named)
def test_the_lines_of_a_job_file_end_at_100_columns(path: Path) -> None:
    assert [line for line in path.read_text().splitlines() if len(line) > 100] == []


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_flux_can_do_what_a_published_row_asks_for(path: Path, flux: Checkpoint) -> None:
    refuse_impossible(load_job(path), flux)


def test_a_mesh_that_flux_cannot_have_would_be_seen(flux: Checkpoint) -> None:
    with pytest.raises(JobError, match="ulysses"):
        refuse_impossible(load_job(PUBLISHED[0], ["parallel.cp=16", "parallel.ulysses=16"]), flux)


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_the_command_in_the_comment_is_this_files_and_its_manifest_exists(path: Path) -> None:
    joined = re.sub(r" \\\n# +", " ", path.read_text())
    (command,) = re.findall(r"^# {5}(batchgen submit .*)$", joined, re.MULTILINE)
    words = shlex.split(command)
    assert (ROOT / words[2]).is_file()
    assert words[3:] == ["--out", f"runs/{path.stem}", "--job", named(path)]


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_the_name_says_what_the_job_does(path: Path) -> None:
    job = load_job(path)
    degrees = {"ulysses": job.parallel.ulysses, "ring": job.parallel.ring}
    for name, degree in re.findall(r"(ulysses|ring)(\d+)", path.stem):
        assert degrees[name] == int(degree)
    if gpus := re.search(r"-(\d)gpus", path.stem):
        assert job.parallel.cp == int(gpus[1])
    assert (job.precision.linear == "fp8") == path.stem.startswith("fp8")
    if threshold := re.search(r"cache-(\d\.\d+)", path.stem):
        assert (job.cache.policy, job.cache.threshold) == ("first_block", float(threshold[1]))
    if side := re.search(r"-(\d{4})-", path.stem):
        assert (job.sampling.width, job.sampling.height) == (int(side[1]), int(side[1]))


@pytest.mark.parametrize("path", PUBLISHED, ids=named)
def test_a_published_row_says_where_it_was_published(path: Path) -> None:
    text = path.read_text()
    assert re.search(r"^# Published: \S", text, re.MULTILINE)
    assert re.search(r"^# Source: https://\S+$", text, re.MULTILINE)
