"""A plan tells time and money: by the estimate, or at the pace of an earlier run of its kind."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from batchgen.manifest import Source
from batchgen.model import TINY
from batchgen.planning import Pace, Plan, Shard, describe_layout, look_ahead, pace, remember
from batchgen.settings.job import load_job

IDENTITY = {"engine": {"batch_size": 4}, "cache": {"policy": "none"}, "manifest": ["aa"]}
KNOWN = Pace(2.0, 100, "cuda NVIDIA H100 bf16 attention=cudnn", "before")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pace, "FOLDER", tmp_path / "pace")
    return tmp_path / "pace"


def planned(shards: int = 10, **identity: object) -> Plan:
    """360 pictures that take an hour on one device, by estimate."""
    return Plan.model_construct(
        identity={**IDENTITY, **identity},
        shards=tuple(Shard(n, 36, n, 0) for n in range(shards)),
        seconds=3600.0,
        speed="a card",
        sources=(Source,),
    )


def test_more_devices_take_less_time_but_no_run_is_shorter_than_a_shard() -> None:
    seen = [look_ahead(planned(), "", devices, None).wall_s for devices in (1, 4, 16)]
    assert seen == [3600, 900, 360]


def test_the_cost_is_that_of_the_device_hours() -> None:
    assert look_ahead(planned(), "", 4, 2.5).cost == 2.5
    assert look_ahead(planned(), "", 4, None).cost is None


def test_an_earlier_run_of_the_same_settings_tells_the_pace_of_another_manifest() -> None:
    remember(IDENTITY, KNOWN)
    seen = look_ahead(planned(manifest=["bb"]), "cuda ", 1, None)
    assert (seen.device_s, seen.basis) == (
        7200,
        "the pace of the run before on cuda NVIDIA H100 bf16",
    )
    assert look_ahead(planned(), "", 1, None).device_s == 7200
    assert look_ahead(planned(), "cpu ", 1, None).device_s == 3600
    assert look_ahead(planned(cache={"policy": "multistep"}), "", 1, None).device_s == 3600


def laid_out(given: str = "", *, contrasted: float = 0.0, model: Path = Path("dev")) -> str:
    """What a plan of 360 pictures in 90 groups says of its layout."""
    plan = planned().model_copy(update={"pictures": 360, "groups": 90, "contrasted": contrasted})
    job = load_job(None, given.split())
    checkpoint = Mock(folder=model, heads=30)
    return describe_layout(job, checkpoint, plan, look_ahead(plan, "", 1, None))


def test_a_layout_is_told_with_the_seconds_of_a_group_and_what_it_is_for() -> None:
    """3600 s for 90 groups are 40 s for each."""
    single = laid_out()
    assert "one device makes a group (4 pictures on average) in 40 s: the most" in single
    assert "(parallel.cp = 2) would need 20 s or more: for pictures soon" in single
    assert "parallel.cp = 2, or cfg = 2 for the two rows of guidance" in laid_out(contrasted=0.1)
    both = laid_out("parallel.cp=2 parallel.cfg=2", contrasted=1.0)
    assert "4 devices (parallel.cp * parallel.cfg = 2 * 2 = 4; ulysses = 2, ring = 1)" in both
    assert "together, in 10 s at best: for pictures soon. A device by itself takes 40 s" in both


def test_a_layout_is_told_with_the_mesh_that_the_heads_allow() -> None:
    """30 heads cannot be dealt out to 4 devices, but to 2 of them."""
    assert "4 devices (parallel.cp = 4; ulysses = 2, ring = 2)" in laid_out("parallel.cp=4")


def test_nobody_is_told_what_single_devices_of_the_embedded_model_are_for() -> None:
    assert not laid_out(model=TINY)
    assert laid_out("parallel.cp=2", model=TINY)
    assert not describe_layout(load_job(None), None, planned(), look_ahead(planned(), "", 1, None))


@pytest.mark.parametrize("damaged", ["", "{}", '{"factor": NaN}', '{"factor": "x"}', "[]"])
def test_what_is_damaged_or_cannot_be_written_leaves_the_estimate(
    folder: Path, damaged: str
) -> None:
    remember(IDENTITY, KNOWN)
    (file,) = folder.glob("*/*.json")
    file.write_text(damaged)
    assert look_ahead(planned(), "", 1, None).device_s == 3600
    file.unlink()
    folder.joinpath(file.parent.name).rmdir()
    folder.joinpath(file.parent.name).write_text("a file in the way")
    remember(IDENTITY, KNOWN)
    assert look_ahead(planned(), "", 1, None).device_s == 3600
