"""`verify` finds every kind of damage, names the file, and says how to get the shard made again."""

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from batchgen.run.directory import RunDirectory
from batchgen.shard import read_done
from tests.support.rehearsal import alive, ask, faulty, owners, rehearse, status, wait_until

SHARD = 1


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("sound") / "run"
    assert rehearse(run, [f"a cat {n}" for n in range(24)], shards__pictures=8).code == 0
    # While the supervisor lives, a damaged copy of the run would count as queued.
    wait_until(lambda: not any(alive(pid) for pid in owners(run, "supervisor")))
    return run


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    return Path(shutil.copytree(sound, tmp_path / "run"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1024])


def flip(path: Path) -> None:
    """The same size, one bit of the middle changed."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def stray(path: Path) -> None:
    shutil.copy(path, path.with_name("000007.tar"))


DAMAGES: dict[str, tuple[Callable[[RunDirectory], Path], Callable[[Path], None], str, str]] = {
    "tar deleted": (lambda s: s.data(SHARD), Path.unlink, "", "000001.tar is missing"),
    "tar truncated": (lambda s: s.data(SHARD), cut, "", "bytes; committed were"),
    "bit of a tar flipped": (
        lambda s: s.data(SHARD),
        flip,
        "--deep",
        "000001.tar: its hash is not the committed one",
    ),
    "tar without commit": (lambda s: s.data(SHARD), stray, "", "7.tar: was not published"),
    "metadata deleted": (lambda s: s.metadata(SHARD), Path.unlink, "", "000001.parquet is missing"),
    "metadata truncated": (lambda s: s.metadata(SHARD), cut, "", "000001.parquet: its hash"),
    "bit of metadata flipped": (
        lambda s: s.metadata(SHARD),
        flip,
        "",
        "000001.parquet: its hash is not the committed one",
    ),
    "commit deleted": (lambda s: s.done(SHARD), Path.unlink, "", "000001.json is missing"),
    "commit truncated": (
        lambda s: s.done(SHARD),
        lambda path: path.write_text("{"),
        "",
        "000001.json: not a commit",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_named(name: str, run: Path) -> None:
    file, damage, option, told = DAMAGES[name]
    damage(file(RunDirectory(run)))
    answer = ask("verify", run, *option.split())
    assert answer.code == 1, answer
    assert told in answer.out
    remedy = f"batchgen verify {run} --deep --repair" if option else f"verify {run} --repair"
    assert (remedy in answer.out) == (name != "tar without commit")


def test_a_picture_that_is_not_the_one_of_its_record_is_told_with_its_name(run: Path) -> None:
    """The tar is the committed one, and so are the records: only the pictures' hashes tell."""
    directory = RunDirectory(run)
    path = directory.metadata(SHARD)
    table = pq.read_table(path)
    column = table.schema.get_field_index("sha256")
    hashes = table["sha256"].to_pylist()
    hashes[2] = hashes[3]
    changed = table.set_column(column, table.schema.field(column), pa.array(hashes))
    pq.write_table(changed, path)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    committed = dataclasses.replace(read_done(directory, SHARD), metadata_sha256=found)
    directory.done(SHARD).write_bytes(committed.encode())
    answer = ask("verify", "--deep", run)
    assert answer.code == 1
    told = f"{table['key'][2]}.jpg is not the picture of its record: its hash is another"
    assert told in answer.out
    assert answer.out.count("its hash is another") == 1
    assert ask("verify", run).code == 0, "the hashes of pictures are not compared"


def test_a_sound_run_is_sound_and_one_that_is_not_done_yet_is_not_damaged(run: Path) -> None:
    assert ask("verify", "--deep", run).code == 0
    directory = RunDirectory(run)
    for path in (
        directory.data(SHARD),
        directory.metadata(SHARD),
        directory.done(SHARD),
        directory.index,
    ):
        path.unlink()
    answer = ask("verify", "--deep", run)
    assert answer.code == 0
    assert "2 shards are sound, 0 are not, 1 is not done yet" in answer.out


@pytest.mark.slow
def test_following_its_advice_makes_the_shard_again_byte_for_byte(run: Path) -> None:
    directory = RunDirectory(run)
    good = directory.data(SHARD).read_bytes()
    flip(directory.data(SHARD))
    assert ask("verify", run, "--deep", "--repair").code == 0
    told = status(run)
    assert (told["state"], told["ok"], told["pending"]) == ("stalled", 16, 8)
    with faulty():
        answer = ask("resume", run)
    assert (answer.code, status(run)["ok"]) == (0, 24)
    assert directory.data(SHARD).read_bytes() == good
    assert ask("verify", "--deep", run).code == 0


def test_a_resume_that_meets_damage_sends_to_verify(run: Path) -> None:
    RunDirectory(run).metadata(SHARD).unlink()
    answer = ask("resume", run)
    assert answer.code == 1
    assert "000001.parquet was committed and is missing" in answer.err
    assert f"batchgen verify {run} --repair" in answer.err
