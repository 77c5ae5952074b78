"""A run as a pipeline for training: every chosen picture once an epoch, however it is divided."""

import pickle
import re
import tarfile
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

import batchgen
from batchgen.dataset import loader
from batchgen.dataset.loader import Pictures, dataset
from batchgen.errors import DamagedRun, InputError
from batchgen.settings import prompt_place
from batchgen.settings.job import parse_job
from tests.support.rehearsal import records
from tests.support.specimens import StubEngine, planned, worked

# Two pictures of each prompt, of three sizes; two fail, and the whole second tar.
PROMPTS = [f"a cat {n // 2}" for n in range(30)]
PROMPTS[1] = PROMPTS[2] = "NAN"
PROMPTS[8:16] = ["FLAT"] * 8


class _Sized(StubEngine):
    """Its pictures are as wide as was planned."""

    def decode(self, denoised: Any) -> Any:
        pixels, seconds = super().decode(denoised)
        return np.repeat(pixels, denoised.width // 16, axis=2), seconds


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("loader")
    made = planned(
        folder,
        PROMPTS,
        "shards.pictures=8",
        "splits.validation=0.3",
        "splits.test=0.2",
        width=[16, 32, 48] * 10,
        score=[n / 10 for n in range(30)],
    )
    return worked(made, _Sized()).directory.root


pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(scope="module")
def good(run: Path) -> list[str]:
    return [one["key"] for one in records(run) if one["outcome"] == "ok"]


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A run of which files may be changed."""
    for path in (path for path in run.rglob("*") if path.is_file()):
        copy = tmp_path / "copied" / path.relative_to(run)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    return tmp_path / "copied"


def keys(samples: Iterable[Any]) -> list[str]:
    return [sample["__key__"] for sample in samples]


def loaded(pictures: Pictures, workers: int, **options: Any) -> DataLoader[Any]:
    return DataLoader(pictures, batch_size=None, num_workers=workers, **options)


def everything(run: Path, **options: Any) -> Pictures:
    return dataset(run, split="all", decode=None, **options)


def test_a_sample_has_the_picture_its_prompt_and_what_made_it(run: Path) -> None:
    for sample in dataset(run, split="all"):
        assert sample["jpg"].size == (sample["json"]["width"], sample["json"]["height"])
        assert sample["txt"] == sample["json"]["prompt"]
        assert sample["__key__"] == sample["json"]["key"]
    tensor, prompt = next(iter(dataset(run, split="all", decode="torchrgb").to_tuple("jpg", "txt")))
    assert (tuple(tensor.shape[:2]), float(tensor.max()) <= 1) == ((3, 16), True)
    assert prompt in PROMPTS


@pytest.mark.parametrize(
    "workers", [0, 2, *(pytest.param(many, marks=pytest.mark.slow) for many in (3, 6))]
)
def test_every_good_picture_comes_once_an_epoch_also_with_more_workers_than_tars(
    run: Path, good: list[str], workers: int
) -> None:
    loader = loaded(everything(run, seed=3), workers)
    first, second = keys(loader), keys(loader)
    assert sorted(first) == sorted(second) == good
    assert first != second
    again = everything(run, seed=3, epoch=1)
    assert again.pictures == len(good)
    assert keys(loaded(again, workers)) == second, "the same seed and epoch give the same order"
    again.set_epoch(0)
    assert keys(loaded(again, workers)) == first
    assert keys(loaded(everything(run, seed=4), workers)) != first


def test_without_shuffling_all_come_in_order(run: Path, good: list[str]) -> None:
    expected = []
    for path in sorted(run.glob("data/*.tar")):
        with tarfile.open(path) as tar:
            expected += [name[:9] for name in tar.getnames() if name.endswith(".json")]
    assert keys(everything(run, shuffle=0)) == expected
    assert sorted(expected) == good


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_processes_get_equal_parts_and_together_everything_once(
    run: Path, good: list[str], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    counts, orders = [], []
    for epoch in range(2):
        seen: list[str] = []
        for rank in range(3):
            monkeypatch.setenv("RANK", str(rank))
            ours = keys(loaded(everything(run, epoch=epoch), workers))
            counts.append(len(ours))
            seen += ours
        assert sorted(seen) == good
        orders.append(seen)
    assert max(counts) - min(counts) <= 1
    assert {*orders[0][: counts[0]]} != {*orders[1][: counts[0]]}, "each epoch divides anew"
    few = everything(run, where=pc.field("index").isin([0, 3]))
    with pytest.raises(InputError, match="2 pictures are too few for 3 processes"):
        next(iter(few))


def _as_a_process(rank: int, run: Path, context: str) -> None:
    """One of three processes of torch.distributed, without torchrun's variables."""
    join = {"init_method": f"file://{run.parent / context}", "rank": rank, "world_size": 3}
    torch.distributed.init_process_group("gloo", **join)
    ours = keys(loaded(everything(run), 2, multiprocessing_context=context))
    (run.parent / f"{context}-{rank}").write_text(" ".join(ours))
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_know_the_process_group_of_their_process(
    copied: Path, good: list[str], context: str
) -> None:
    torch.multiprocessing.spawn(_as_a_process, (copied, context), nprocs=3)
    parts = [(copied.parent / f"{context}-{rank}").read_text().split() for rank in range(3)]
    assert sorted(key for part in parts for key in part) == good
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_spawned_worker_reads_the_part_of_the_process_that_has_made_it(
    run: Path, good: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker is sent is unpickled where there is no process group."""
    monkeypatch.setattr(loader, "get_worker_info", lambda: True)
    seen = []
    for rank in range(3):
        with monkeypatch.context() as owner:
            owner.setenv("WORLD_SIZE", "3")
            owner.setenv("RANK", str(rank))
            sent = pickle.dumps(everything(run))
        seen.append(keys(pickle.loads(sent)))
    assert sorted(key for part in seen for key in part) == good
    assert max(map(len, seen)) - min(map(len, seen)) <= 1


@pytest.mark.slow
def test_a_look_and_an_abandoned_loader_leave_the_epochs_of_workers_alone(
    run: Path, good: list[str]
) -> None:
    pictures = everything(run)
    for _ in range(3):
        next(iter(pictures))
        next(iter(loaded(pictures, 2)))
        assert sorted(keys(loaded(pictures, 3))) == good


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_stay_have_all_the_same_epoch(
    run: Path, good: list[str], context: str
) -> None:
    pictures = everything(run)
    loader = loaded(pictures, 2, persistent_workers=True, multiprocessing_context=context)
    passes = [keys(loader) for _ in range(3)]
    assert all(sorted(one) == good for one in passes)
    assert len({tuple(one) for one in passes}) == 3
    pictures.set_epoch(0)
    assert [keys(loader) for _ in range(3)] == passes


def test_batches_are_of_one_size_and_lose_nothing(run: Path, good: list[str]) -> None:
    tensors = dataset(run, split="all", decode="torchrgb").to_tuple("jpg", "__key__").batched(4)
    batches = [*loaded(tensors, 0)]
    assert all(len(picture) == len(names) <= 4 for picture, names in batches)
    assert {tuple(picture.shape[1:]) for picture, _ in batches} == {
        (3, 16, width) for width in (16, 32, 48)
    }
    assert sorted(name for _, names in batches for name in names) == good
    whole = [*dataset(run, split="all", decode="torchrgb").batched(4, partial=False)]
    assert [len(batch["jpg"]) for batch in whole] == [4] * len(whole)
    assert len(whole) == sum(len(names) == 4 for _, names in batches)
    lists = [*dataset(run, split="all").batched(4, collation_fn=None)]
    assert all(len({one["jpg"].size for one in some}) == 1 for some in lists)
    assert sorted(keys(one for some in lists for one in some)) == good


def test_pictures_that_were_made_alike_need_no_batches_of_their_own(run: Path) -> None:
    alike = dataset(run, split="all").map(lambda one: (one["jpg"].resize((8, 8)), one["txt"]))
    assert [len(prompts) for _, prompts in alike.batched(10)] == [10, 10]


def test_equal_prompts_are_in_one_split_and_each_picture_in_one(run: Path, good: list[str]) -> None:
    by_split = {
        split: {
            one["__key__"]: one["txt"].decode() for one in dataset(run, split=split, decode=None)
        }
        for split in ("train", "validation", "test")
    }
    assert Counter(key for some in by_split.values() for key in some) == Counter(good)
    prompts = [set(some.values()) for some in by_split.values()]
    assert all(prompts)
    assert sum(map(len, prompts)) == len(set.union(*prompts))
    assert all(prompt_place(prompt) < 0.3 for prompt in by_split["validation"].values())
    assert all(prompt_place(prompt) >= 0.8 for prompt in by_split["test"].values())


def test_a_split_has_to_be_named_where_there_are_some(run: Path) -> None:
    with pytest.raises(InputError, match='has splits, so name one: split="train" or split="val'):
        dataset(run)
    with pytest.raises(InputError, match=r'has no split="dev"; it has split="train" or .*resume'):
        dataset(run, split="dev")


def test_records_say_which_pictures_are_read(run: Path, good: list[str]) -> None:
    def some(where: Any) -> list[str]:
        return sorted(keys(everything(run, where=where)))

    wide = [one["key"] for one in records(run) if one["outcome"] == "ok" and one["width"] >= 32]
    assert some(pc.field("width") >= 32) == wide
    assert some(lambda one: one["width"] >= 32) == wide
    late = [key for key in good if int(key) >= 20]
    assert some(pc.field("extra", "score") >= 2.0) == late
    assert some(lambda one: one["extra"]["score"] >= 2.0) == late
    assert some(pc.field("outcome") == "ok") == good
    assert some(pc.field("path") == "normal") == good
    with pytest.raises(InputError, match=r"colour.*expected a condition over the columns key, "):
        some(pc.field("colour") == "red")
    with pytest.raises(InputError, match="no published picture is in this split and fulfils"):
        some(pc.field("outcome") == "failed")


def test_a_condition_in_words_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match=r"where = 'width >= 32': expected a condition such as pc"):
        dataset(run, split="all", where="width >= 32")  # type: ignore[arg-type]


def test_of_a_picture_that_was_made_again_the_latest_is_read(copied: Path) -> None:
    """Generation 1 has made the first tar's pictures again; one of them failed."""
    table = pq.read_table(copied / "metadata/000000.parquet")
    again = {name: table[name].to_pylist() for name in ("tar", "outcome")}
    again["tar"] = [tar and "data/000009.tar" for tar in again["tar"]]
    again["tar"][0], again["outcome"][0] = None, "failed"
    newer = table.set_column(table.column_names.index("generation"), "generation", [[1] * 8])
    for name, values in again.items():
        newer = newer.set_column(newer.column_names.index(name), table.field(name), [values])
    pq.write_table(newer, copied / "metadata/000009.parquet")
    (copied / "data/000009.tar").write_bytes((copied / "data/000000.tar").read_bytes())
    read = {one["__key__"]: Path(one["__url__"]).name for one in everything(copied)}
    superseded = {f"{key:09d}" for key in table["index"].to_pylist()}
    lost = f"{table['index'][0].as_py():09d}"
    assert lost not in read
    assert {key: tar for key, tar in read.items() if tar == "000009.tar"}.keys() == {
        f"{row['index']:09d}" for row in newer.to_pylist() if row["tar"]
    }
    assert {key for key, tar in read.items() if tar == "000000.tar"} == set()
    assert not superseded & {key for key, tar in read.items() if tar == "000003.tar"}


def test_a_tar_that_is_gone_or_lacks_a_picture_is_told_and_nothing_is_passed_over(
    copied: Path,
) -> None:
    tar, pictures = copied / "data/000000.tar", everything(copied, shuffle=0)
    content = tar.read_bytes()
    tar.write_bytes((copied / "data/000002.tar").read_bytes())
    with pytest.raises(DamagedRun, match=r"000000\.tar: lacks 6 pictures of its records: 00000000"):
        keys(pictures)
    tar.write_bytes(content[: len(content) // 2])
    with pytest.raises(DamagedRun, match=r"000000\.tar: (lacks|cannot be read)"):
        keys(pictures)
    tar.unlink()
    with pytest.raises(DamagedRun, match=r"000000\.tar: cannot be read: .*verify .*--repair"):
        keys(pictures)


class _Called:
    """Calls a function where it is unpickled."""

    def __reduce__(self) -> Any:
        return str.upper, ("called",)


def test_nothing_in_a_tar_is_unpickled(copied: Path) -> None:
    tar = copied / "data/000000.tar"
    (copied / "pickle").write_bytes(pickle.dumps(_Called()))
    with tarfile.open(tar, "w") as file:
        file.add(copied / "pickle", "000000000.pyd")
    only = dataset(copied, split="all", where=pc.field("index") == 0)
    assert isinstance(next(iter(only))["pyd"], bytes)


def test_while_a_run_goes_on_what_is_published_is_read(tmp_path: Path) -> None:
    made = planned(tmp_path, PROMPTS[16:24])
    with pytest.raises(InputError, match="nothing is published there"):
        dataset(made.directory.root)
    root = worked(made).directory.root
    (root / "metadata/000001.parquet").rename(tmp_path / "not yet")
    (root / "index.json").unlink()
    assert sorted(keys(dataset(root))) == [f"{key:09d}" for key in range(4)]


def test_what_is_no_decoding_is_refused(run: Path) -> None:
    with pytest.raises(InputError, match='decode="jpeg": expected None or one of l8, rgb8'):
        dataset(run, decode="jpeg")


@pytest.mark.slow
def test_the_examples_of_the_documentation_run_as_printed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    (splits,) = re.findall(r"^```toml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert parse_job(tomllib.loads(splits), "docs").splits.validation == 0.02
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "prompts").symlink_to(run)
    monkeypatch.chdir(tmp_path)
    batches: list[Any] = []
    names = {"note": batches.append}
    exec(blocks[0].replace("...", "note(images)"), names)
    assert {tuple(images.shape[1:3]) for images in batches} == {(3, 16)}
    with pytest.raises(InputError, match="no published picture"):  # none is so wide
        exec(blocks[1], names)
    exec(blocks[1].replace("128", "32").replace("red", "cat"), names)
    assert names["pictures"].pictures == names["batches"].pictures > 0
    assert len(blocks) == 3, "the third is run by test_splits.py"


def test_python_has_it_as_a_function_and_as_a_method_of_a_run(run: Path, good: list[str]) -> None:
    import_module("batchgen.dataset.verify")  # of the folder of that name

    named = {"split": "all", "decode": None, "shuffle": 0}
    of_function, of_method = batchgen.dataset(run, **named), batchgen.attach(run).dataset(**named)
    assert sorted(keys(of_function)) == good
    assert (
        keys(of_method)
        == keys(of_function)
        == keys(batchgen.dataset(batchgen.attach(run), **named))
    )
