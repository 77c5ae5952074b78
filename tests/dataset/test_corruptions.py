"""Corruptions of a complete run: `verify` finds each, names the file, and says what to type."""

import io
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.run.run import Run, open_run
from tests.support.rehearsal import ask
from tests.support.specimens import abandoned, planned, worked

PROMPTS = [*["a cat"] * 4, *["a dog"] * 4, "a fox", "NAN", "a hen", "an owl"]
TAR, RECORDS = "data/000001.tar", "metadata/000001.parquet"
COMMIT = ".batchgen/done/000/000001.json"


def flip(place: float | bytes) -> Callable[[Path], None]:
    """Change one bit, at a share of the file or behind the first of these bytes."""

    def act(path: Path) -> None:
        data = bytearray(path.read_bytes())
        is_text = isinstance(place, bytes)
        data[data.index(place) + len(place) if is_text else int(len(data) * place)] ^= 1
        path.write_bytes(data)

    return act


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-700])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Exchange a file with that of the shard before it."""
    other = path.with_name(path.name.replace("1", "0"))
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def replaced(old: str, new: str) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return act


def copied(name: str) -> Callable[[Path], None]:
    return lambda path: Path(shutil.copy(path, path.with_name(name)))


def members(change: Callable[[list[tuple[str, bytes]]], None]) -> Callable[[Path], None]:
    """Write a tar anew, with other members."""

    def act(path: Path) -> None:
        with tarfile.open(path) as tar:
            kept = [(one.name, tar.extractfile(one).read()) for one in tar]
        change(kept)
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for name, data in kept:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))

    return act


def double_a_key(kept: list[tuple[str, bytes]]) -> None:
    kept[3:6] = kept[0:3]


def leave_a_sample_out(kept: list[tuple[str, bytes]]) -> None:
    del kept[3:6]


def exchange_pictures(kept: list[tuple[str, bytes]]) -> None:
    kept[0], kept[3] = (kept[0][0], kept[3][1]), (kept[3][0], kept[0][1])


def seed(path: Path) -> None:
    """Change a number in records, and write them as a sound file."""
    table = pq.read_table(path)
    seeds = [value + 1 for value in table["seed"].to_pylist()]
    at = table.schema.get_field_index("seed")
    pq.write_table(table.set_column(at, table.schema.field(at), pa.array(seeds)), path)


@dataclass(frozen=True)
class Corruption:
    """What is done to a file of the run."""

    file: str
    act: Callable[[Path], None]
    # Found by `verify --deep` alone.
    deep: bool = False
    # A command that the answer must have; "" if `verify --repair` mends it.
    remedy: str = ""


CORRUPTIONS = {
    "a bit of an image": Corruption(TAR, flip(b"JFIF\0"), deep=True),
    "a bit of a sample's JSON": Corruption(TAR, flip(b'{"key": "00000000'), deep=True),
    "a bit of a member's name": Corruption(TAR, flip(b"00000000")),
    "a bit in the middle of a tar": Corruption(TAR, flip(0.5), deep=True),
    "a tar cut off": Corruption(TAR, cut),
    "an empty tar": Corruption(TAR, empty),
    "a tar gone": Corruption(TAR, Path.unlink),
    "two tars exchanged": Corruption(TAR, swap),
    "a sample left out": Corruption(TAR, members(leave_a_sample_out)),
    "a key doubled": Corruption(TAR, members(double_a_key)),
    "two pictures exchanged": Corruption(TAR, members(exchange_pictures), deep=True),
    "an extra tar": Corruption(TAR, copied("000009.tar"), remedy="mv "),
    "a bit of the records": Corruption(RECORDS, flip(0.4)),
    "records cut off": Corruption(RECORDS, cut),
    "records gone": Corruption(RECORDS, Path.unlink),
    "records exchanged": Corruption(RECORDS, swap),
    "a number in the records": Corruption(RECORDS, seed),
    "extra records": Corruption(RECORDS, copied("000009.parquet"), remedy="mv "),
    "a count of a commit": Corruption(COMMIT, replaced('"ok": 4', '"ok": 3')),
    "a commit cut off": Corruption(COMMIT, cut),
    "a commit gone": Corruption(COMMIT, Path.unlink),
    "commits exchanged": Corruption(COMMIT, swap),
    "a number in the index": Corruption("index.json", replaced('"nsamples": 4', '"nsamples": 5')),
    "an index cut off": Corruption("index.json", lambda path: path.write_text("{")),
    "a digit of the plan": Corruption(
        ".batchgen/plan.json", replaced('"rows": 12', '"rows": 13'), remedy="from a copy"
    ),
    "a plan cut off": Corruption(".batchgen/plan.json", cut, remedy="from a copy"),
    "a setting of the job": Corruption(
        ".batchgen/job.toml",
        replaced('format = "jpg"', 'format = "png"'),
        remedy="Put the inputs back",
    ),
    "a count of the card": Corruption("README.md", replaced("11 pictures", "12 pictures")),
    "a failure of the card": Corruption("README.md", replaced("1 of 12", "2 of 12")),
    "a size's count on the card": Corruption("README.md", replaced("| 11 |", "| 1 |")),
    "a card gone": Corruption("README.md", Path.unlink),
    "a statistic": Corruption("statistics.json", replaced('"failed": 1', '"failed": 2')),
    "statistics cut off": Corruption("statistics.json", lambda path: path.write_text("{")),
    "a count of the report": Corruption("report.html", replaced('value="11"', 'value="10"')),
    "a report cut off": Corruption("report.html", cut),
    "a contact sheet cut off": Corruption("contact.jpg", cut),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A complete run of three shards, with one failure."""
    run = abandoned(worked(planned(tmp_path_factory.mktemp("sound"), PROMPTS)))
    assert ask("verify", "--deep", run.directory.root).code == 0
    return run


@pytest.fixture
def run(sound: Run, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound.directory.root, tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_it_is_found_with_its_remedy(name: str, run: Path) -> None:
    one = CORRUPTIONS[name]
    one.act(run / one.file)
    words = ["--deep"] * one.deep
    assert not one.deep or ask("verify", run).code == 0, "a quick look finds it too"
    answer = ask("verify", run, *words)
    assert answer.code == 1, answer
    told = answer.out + answer.err
    assert Path(one.file).name.replace("1", "9" if "mv" in one.remedy else "1") in told
    remedy = one.remedy or f"batchgen verify {run} {' '.join([*words, '--repair'])}"
    assert remedy in told
    if one.remedy:
        return
    assert ask("verify", run, *words, "--repair").code == 0
    worked(open_run(run))
    assert ask("verify", "--deep", run).code == 0
