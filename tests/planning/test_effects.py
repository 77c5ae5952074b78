"""What changes no picture: of the job it is refused, of the manifest it is told in the plan."""

import json
import shutil
from pathlib import Path

import pytest

from batchgen.errors import JobError
from batchgen.model import TINY
from batchgen.model.checkpoint import Checkpoint
from batchgen.planning.plan import Plan
from batchgen.planning.planner import dry_run
from batchgen.settings.job import load_job
from tests.support.rehearsal import write_prompts
from tests.support.sd3_folder import save_sd3


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Small models of three kinds, as far as planning asks."""
    made = {}
    for name, embedded in (("dev", True), ("schnell", False)):
        folder = shutil.copytree(TINY, tmp_path_factory.mktemp(name) / "model")
        file = folder / "transformer" / "config.json"
        config = json.loads(file.read_text())
        file.write_text(json.dumps(config | {"guidance_embeds": embedded}))
        made[name] = Checkpoint(folder, "flux", {})
    folder = save_sd3(tmp_path_factory.mktemp("sd3") / "model", pos_embed_max_size=64)
    return made | {"sd3": Checkpoint(folder, "sd3", {})}


@pytest.fixture
def plan(models: dict[str, Checkpoint], tmp_path: Path):
    def run(model: str, *settings: str, **columns: list[object]) -> Plan:
        rows = len(next(iter(columns.values()), [0]))
        file = write_prompts(tmp_path / "prompts.parquet", ["a cat"] * rows, **columns)
        return dry_run([file], load_job(None, ["output.license=other", *settings]), models[model])

    return run


NEGATIVE, TRUE_CFG = "sampling.negative_prompt=grey", "sampling.true_cfg=4"


@pytest.mark.parametrize(
    ("model", "settings", "columns", "told"),
    [
        (
            "dev",
            [NEGATIVE],
            {},
            (
                r'sampling\.negative_prompt = "grey" changes no picture: it acts where true_cfg is '
                r"over 1\. --set sampling\.true_cfg=4, or leave sampling\.negative_prompt out"
            ),
        ),
        ("dev", [NEGATIVE, "sampling.true_cfg=1"], {}, "it acts where true_cfg is over 1"),
        ("dev", [NEGATIVE], {"true_cfg": [1.0, None]}, "it acts where true_cfg is over 1"),
        ("dev", [TRUE_CFG], {}, r"sampling\.true_cfg = 4 .* where there is a negative prompt"),
        ("dev", [TRUE_CFG], {"negative_prompt": ["", None]}, r"sampling\.true_cfg = 4 changes"),
        ("dev", ["sampling.true_cfg=0.5"], {"negative_prompt": ["x"]}, r"true_cfg = 0\.5 changes"),
        ("schnell", ["sampling.guidance=3.5"], {}, "this model has no guidance embedding"),
        ("schnell", ["sampling.guidance=1"], {"guidance": [None, 0.0]}, "guidance = 1 changes"),
        ("sd3", ["sampling.guidance=0.5"], {}, r"sampling\.guidance = 0\.5 .* it acts over 1"),
        ("sd3", [NEGATIVE, "sampling.guidance=1"], {}, r"--set sampling\.guidance=4, or leave"),
        ("sd3", ["sampling.true_cfg=0.5"], {}, "guidance is the only scale of this model"),
    ],
)
def test_a_setting_that_changes_no_picture_is_refused(plan, model, settings, columns, told):
    with pytest.raises(JobError, match=told):
        plan(model, *settings, **columns)


@pytest.mark.parametrize(
    ("model", "settings", "columns", "told"),
    [
        ("dev", [], {}, "acts where true_cfg is over 1 and there is a negative prompt"),
        ("dev", [], {"negative_prompt": ["grey", ""], "true_cfg": [1.0, 4.0]}, "no row has"),
        ("sd3", ["sampling.guidance=1"], {}, r"it acts where guidance is over 1\. Leave"),
        ("dev", [NEGATIVE, TRUE_CFG], {}, ""),
        ("dev", [], {"negative_prompt": ["grey", ""], "true_cfg": [4.0, 1.0]}, ""),
        ("sd3", [], {}, ""),
        ("sd3", ["sampling.guidance=1"], {"guidance": [None, 2.0]}, ""),
    ],
)
def test_halves_are_refused_where_no_row_has_two_branches(plan, model, settings, columns, told):
    if not told:
        assert plan(model, "parallel.cfg=2", *settings, **columns)
        return
    with pytest.raises(JobError, match=f"parallel\\.cfg = 2: .*{told}"):
        plan(model, "parallel.cfg=2", *settings, **columns)
    assert plan(model, "parallel.cfg=1", *settings, **columns)


@pytest.mark.parametrize(
    ("model", "settings", "columns"),
    [
        ("dev", [NEGATIVE, TRUE_CFG], {}),
        ("dev", [NEGATIVE], {"true_cfg": [None, 4.0]}),
        ("dev", [TRUE_CFG], {"negative_prompt": ["", "grey"]}),
        ("dev", ["sampling.true_cfg=1", "sampling.guidance=0.5"], {}),
        ("dev", ["sampling.true_cfg=0", "sampling.negative_prompt="], {}),
        ("schnell", ["sampling.guidance=0"], {}),
        ("schnell", [], {}),
        ("sd3", [NEGATIVE], {}),
        ("sd3", ["sampling.guidance=0", "sampling.true_cfg=1"], {}),
    ],
)
def test_what_acts_in_some_row_or_asks_for_nothing_passes(plan, model, settings, columns):
    assert not plan(model, *settings, **columns).notes


def test_values_of_rows_that_change_nothing_are_told_with_their_number_and_why(plan):
    acts = "it acts over 1, and where there is a negative prompt"
    columns = {
        "guidance": [3.5, None, 2.0],
        "negative_prompt": ["grey", "", None],
        "true_cfg": [1.0, 4.0, None],
    }
    assert plan("schnell", **columns).notes == (
        "2 rows have a guidance that changes nothing: this model has no guidance embedding",
        "1 row has a negative_prompt that changes nothing: it acts where true_cfg is over 1",
        f"1 row has a true_cfg that changes nothing: {acts}",
    )


def test_a_setting_that_no_row_takes_is_told(plan):
    own = {"width": [128, 64], "seed": [1, 2]}
    told = "sampling.{0} of the job is not used: every row has a {0} of its own"
    settings = ["sampling.width=64", "sampling.height=64", "sampling.seed=1"]
    assert plan("dev", *settings, **own).notes == (told.format("seed"), told.format("width"))
    assert not plan("dev", **own).notes, "a default asks for nothing"


def test_a_key_of_the_file_that_belonged_to_an_overridden_choice_is_told(
    models: dict[str, Checkpoint], tmp_path: Path
) -> None:
    (tmp_path / "job.toml").write_text("[sampling]\nwidth = 64\n[output]\nquality = 90\n")
    job = load_job(tmp_path / "job.toml", ["output.format=png"])
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    told = 'output.quality of the job is not used: output.format is "png"'
    assert dry_run([file], job, models["dev"]).notes == (told,)


@pytest.mark.parametrize("policy", ["multistep", "first_block", "teacache"])
def test_a_cache_for_pictures_of_few_steps_is_told_with_what_to_set_instead(plan, policy):
    cached = f"cache.policy={policy}"
    (told,) = plan("dev", cached, steps=[4, 9, 10, 28]).notes
    assert told.startswith(f'cache.policy = "{policy}": 2 pictures have at most 9 steps, so far')
    assert "batchgen calibrate measures" in told
    assert "--set cache.policy=none" in told
    assert not plan("dev", cached, steps=[10, 28]).notes
    assert not plan("dev", steps=[4, 8]).notes, "without a cache there is nothing to tell"
    assert not plan("dev", "cache.policy=schedule", "cache.skip=[2]", steps=[4, 8]).notes


def test_test_cards_show_every_value(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"], true_cfg=[0.5])
    assert not dry_run([file], load_job(None, ["engine.kind=pattern", NEGATIVE]), None).notes


def test_classifier_free_guidance_doubles_time_only_where_it_acts(plan):
    """A model that has it for every picture may be used without, as step-distilled ones are."""
    without, half, every = (plan("sd3", guidance=scales) for scales in ([1, 0], [1, 4], [4, 4]))
    assert [one.contrasted for one in (without, half, every)] == [0, 0.5, 1]
    assert half.seconds == pytest.approx(1.5 * without.seconds)
    assert every.seconds == pytest.approx(2 * without.seconds)
