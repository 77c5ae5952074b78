"""An open licence for pictures of a non-commercial model is refused when a run is planned."""

import json
import shutil
from pathlib import Path

import pytest

from batchgen.errors import JobError
from batchgen.model import TINY, Ingredient
from batchgen.planning.licence_check import note_on_licences, refuse_open_licence
from batchgen.settings import Output
from tests.support.rehearsal import ask, write_prompts


def ingredient(licence: str, kind: str = "model") -> Ingredient:
    return Ingredient(kind=kind, name="it", digest="sha256:0", license=licence)


LIMITED, FREE, SILENT = map(ingredient, ("cc-by-nc-4.0", "apache-2.0", ""))


@pytest.mark.parametrize("licence", ["cc-by-4.0", "apache-2.0", "cc0-1.0"])
def test_it_is_refused_with_both_ways_out(licence: str) -> None:
    with pytest.raises(JobError) as error:
        refuse_open_licence(Output(license=licence), [FREE, LIMITED])
    told = str(error.value)
    assert f'output.license = "{licence}"' in told
    assert "model it (cc-by-nc-4.0)" in told
    assert "--set output.license=other" in told
    assert "--set output.force_license=true" in told
    refuse_open_licence(Output(license=licence, force_license=True), [FREE, LIMITED])


@pytest.mark.parametrize("licence", ["other", "unknown", "cc-by-nc-4.0", "of our own"])
def test_a_licence_that_is_not_open_goes_with_every_model(licence: str) -> None:
    refuse_open_licence(Output(license=licence), [LIMITED])


def test_an_open_licence_goes_with_a_free_model_and_with_test_cards() -> None:
    refuse_open_licence(Output(license="cc-by-4.0"), [FREE])
    refuse_open_licence(Output(license="cc-by-4.0"), [])


def test_a_lora_counts_as_the_model_does() -> None:
    with pytest.raises(JobError, match=r"LoRA it \(cc-by-nc-4\.0\)"):
        refuse_open_licence(Output(license="mit"), [FREE, ingredient("cc-by-nc-4.0", "LoRA")])


@pytest.mark.parametrize(("licence", "model"), [("other", LIMITED), ("mit", FREE), ("mit", SILENT)])
def test_to_force_what_nobody_refuses_is_refused(licence: str, model: Ingredient) -> None:
    with pytest.raises(JobError, match=r"output\.force_license = true has no effect"):
        refuse_open_licence(Output(license=licence, force_license=True), [model])


def test_a_rehearsal_may_have_what_the_real_run_needs() -> None:
    refuse_open_licence(Output(license="mit", force_license=True), [])


def test_it_is_told_if_an_open_licence_could_not_be_compared() -> None:
    (told,) = note_on_licences(Output(license="mit"), [FREE, SILENT])
    assert told.startswith('output.license = "mit" could not be compared with the licence of model')
    assert not list(note_on_licences(Output(license="mit"), [FREE, LIMITED]))
    assert not list(note_on_licences(Output(license="other"), [SILENT]))


def test_plan_reads_the_models_licence_and_says_both(tmp_path: Path) -> None:
    model_folder = Path(shutil.copytree(TINY, tmp_path / "mine"))
    (model_folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    file = write_prompts(tmp_path / "prompts.parquet", ["a cat"])
    words = ["plan", file, "--set", f"model.path={model_folder}"]
    refused = ask(*words, "--set", "output.license=cc-by-4.0")
    assert refused.code == 2
    assert f"model {model_folder.name} (cc-by-nc-4.0)" in refused.err
    run = ["--out", tmp_path / "run", "--set", "output.license=cc-by-4.0"]
    assert ask("submit", *words[1:], *run).err == refused.err
    assert not (tmp_path / "run").exists()
    forced = ["--set", "output.license=cc-by-4.0", "--set", "output.force_license=true"]
    assert "licence    cc-by-4.0 of the pictures; model cc-by-nc-4.0" in ask(*words, *forced).out
    told = json.loads(ask(*words, "--set", "output.license=other", "--json").out)
    assert told["made_with"][0]["license"] == "cc-by-nc-4.0"
