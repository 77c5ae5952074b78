"""A site profile is read strictly: what is wrong is named, with what is accepted."""

from pathlib import Path

import pytest

from batchgen.errors import SiteError
from batchgen.settings.site import Site, load_site, seconds

PROFILES = Path(__file__).parents[2] / "slurm"


@pytest.mark.parametrize("path", sorted(PROFILES.glob("*.toml")), ids=lambda path: path.name)
def test_the_ready_profiles_load(path: Path) -> None:
    assert load_site(path).tasks > 0


def test_the_example_names_every_key() -> None:
    text = (PROFILES / "example.toml").read_text()
    assert [name for name in Site.model_fields if name not in text] == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("", r"gpus_per_node: missing; it is: GPUs of a node"),
        ("gpus_per_node = 8", r"time: missing; it is: time limit"),
        ("partitions = 'x'", r"partitions: unknown key; accepted here: partition, .*poll_s$"),
        (
            "gpus_per_node = '8'",
            r"gpus_per_node = '8': .*valid integer; gpus_per_node is: GPUs of a node",
        ),
        ("nodes = 0", r"nodes = 0: .*greater than or equal to 1"),
        (
            "gpus_per_node = 0\ntime = '1:00'",
            r"\n  gpus_per_node = 0: say how many workers a node has, with workers_per_node",
        ),
        (
            "gpus_per_node = 2\nworkers_per_node = 3\ntime = '1:00'",
            r"\n  workers_per_node = 3 > gpus_per_node = 2",
        ),
        (
            "gpus_per_node = 0\nworkers_per_node = 2\ntime = '1:00'\ngpu_memory_gib = 80",
            r"\n  gpu_memory_gib = 80\.0 with gpus_per_node = 0: there is no GPU to describe",
        ),
        ("time = 'tomorrow'", r"time = 'tomorrow': a time as SLURM takes it, such as"),
        ("time = '00:00'", r"a time limit of nothing"),
        ("mem = '64 GB'", r"mem = '64 GB': an amount as SLURM takes it"),
        ("sbatch = ['exclusive']", r"'exclusive': expected --option or --option=value"),
        ("sbatch = ['--time=3']", r"'--time=3': set time in the profile instead"),
        ("sbatch = ['--output=x']", r"'--output=x': batchgen sets it itself"),
        ("setup = 'module load'", r"setup = 'module load': .*tuple"),
        ("nodes = ", r"not TOML: Invalid value"),
    ],
)
def test_what_is_wrong_is_named(text: str, answer: str, tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(SiteError, match=rf"(?s){tmp_path}/site\.toml.*{answer}"):
        load_site(tmp_path / "site.toml")


def test_a_missing_profile_is_told() -> None:
    expected = r"nowhere\.toml: no such site profile\. slurm/example\.toml"
    with pytest.raises(SiteError, match=expected):
        load_site(Path("nowhere.toml"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("30", 1800),
        ("04:30", 270),
        ("1:00:00", 3600),
        ("2-12", 60 * 3600),
        ("1-0:30", 24 * 3600 + 1800),
        ("1-02:03:04", 93784),
    ],
)
def test_times_are_read_as_slurm_reads_them(text: str, wanted: int) -> None:
    assert seconds(text) == wanted


@pytest.mark.parametrize("text", ["", "1-", "-1", "1:2:3:4", "1-1:2:3:4", "1 ", "1\n", "1.5", ":1"])
def test_what_slurm_does_not_read_as_a_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a time as SLURM takes it"):
        seconds(text)


def test_a_node_has_a_worker_for_each_gpu_or_as_many_as_the_profile_says() -> None:
    assert Site(gpus_per_node=8, time="1:00").tasks == 8
    assert Site(gpus_per_node=8, workers_per_node=2, time="1:00").tasks == 2
    assert Site(gpus_per_node=0, workers_per_node=16, time="1:00").tasks == 16
