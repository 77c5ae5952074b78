"""A scorer's folder is checked before anything starts, and a refusal says what was expected."""

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from safetensors.numpy import load_file, save_file

from batchgen.errors import ModelError
from batchgen.model.score_model import resolve_score_model
from batchgen.planning import locate_model
from batchgen.settings import load_job
from tests.support.tiny_scorers import SIDE, save_classifier, save_similarity


def refusal(given: Path | str) -> str:
    with pytest.raises(ModelError) as error:
        resolve_score_model(str(given))
    return str(error.value)


def change(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: one for key, one in content.items() if one is not None}))


@pytest.fixture
def similarity(tmp_path: Path) -> Path:
    return save_similarity(tmp_path)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return save_classifier(tmp_path)


def test_a_similarity_is_known_by_its_configuration(similarity: Path) -> None:
    scorer = resolve_score_model(str(similarity))
    assert (scorer.class_name, scorer.reads, scorer.side_px) == ("CLIPModel", "similarity", SIDE)
    weights = load_file(similarity / "model.safetensors")
    assert scorer.parameters == sum(one.size for one in weights.values())
    needed = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json"}
    assert needed <= scorer.identity.keys()


def test_a_folder_of_another_place_is_the_same_scorer(similarity: Path, tmp_path: Path) -> None:
    elsewhere = save_similarity(tmp_path / "elsewhere")
    first, second = (resolve_score_model(str(one)) for one in (similarity, elsewhere))
    assert first.identity == second.identity


def test_a_scorer_belongs_to_what_identifies_a_run_and_not_to_the_model(similarity: Path) -> None:
    """Compiled code, quantized weights and schedules of the model serve any scorer."""
    job, checkpoint = locate_model(load_job(None, [f"score.model={similarity}"]))
    plain = locate_model(load_job(None))[1]
    assert checkpoint is not None
    assert plain is not None
    assert job.score.model == str(similarity)
    assert checkpoint.identity == plain.identity == plain.inputs
    own = {f"score/{name}": one for name, one in checkpoint.scorer.identity.items()}
    assert checkpoint.inputs == plain.identity | own
    assert "score/model.safetensors" in own


@pytest.mark.parametrize(
    ("values", "reads"),
    [
        ({}, "one label"),
        ({"problem_type": "single_label_classification"}, "one label"),
        ({"problem_type": "multi_label_classification"}, "labels"),
    ],
)
def test_a_classifier_is_read_as_it_was_trained(
    values: dict[str, str], reads: str, classifier: Path
) -> None:
    change(classifier / "config.json", **values)
    assert resolve_score_model(str(classifier)).reads == reads


def test_a_regression_with_several_outputs_is_refused(classifier: Path) -> None:
    change(classifier / "config.json", problem_type="regression")
    assert "a regression with 3 outputs; a scorer gives one number, or labels" in refusal(
        classifier
    )


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"architectures": ["BertModel"]}, "of BertModel, with which"),
        ({"architectures": None}, "of model_type 'vit', with which"),
        ({"architectures": "CLIPModel"}, "of model_type 'vit', with which"),
    ],
)
def test_an_unknown_kind_is_refused_by_name_with_what_is_known(
    values: dict[str, Any], told: str, classifier: Path
) -> None:
    change(classifier / "config.json", **values)
    message = refusal(classifier)
    assert f"config.json: {told} batchgen cannot score pictures. It can with CLIPModel" in message
    assert "PickScore" in message
    assert "ViTForImageClassification" in message


@pytest.mark.parametrize("name", ["preprocessor_config.json", "tokenizer.json"])
def test_a_folder_without_a_needed_file_is_refused(name: str, similarity: Path) -> None:
    (similarity / name).unlink()
    assert f"{similarity}: {name} or " in refusal(similarity)


def test_a_classifier_needs_no_tokenizer(classifier: Path) -> None:
    assert not list(classifier.glob("tokenizer*"))
    assert resolve_score_model(str(classifier)).reads == "one label"


def test_weights_that_are_cut_are_refused(classifier: Path) -> None:
    path = classifier / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    assert "is not a whole safetensors file" in refusal(classifier)


def test_weights_of_another_number_of_labels_are_refused(classifier: Path) -> None:
    change(classifier / "config.json", id2label={"0": "a", "1": "b"})
    assert "config.json names 2 labels, and the weights have 3" in refusal(classifier)


@pytest.mark.parametrize(
    ("save", "name"), [(save_classifier, "classifier.weight"), (save_similarity, "logit_scale")]
)
def test_weights_without_what_makes_scores_are_refused(
    save: Any, name: str, tmp_path: Path
) -> None:
    path = save(tmp_path) / "model.safetensors"
    save_file({key: one for key, one in load_file(path).items() if key != name}, path)
    assert f"the weights hold no {name}, so they are not of a " in refusal(tmp_path)


def test_labels_that_are_not_numbered_are_refused(classifier: Path) -> None:
    change(classifier / "config.json", id2label={"a": "b"})
    assert "id2label: expected whole numbers" in refusal(classifier)


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    assert "score.model = 'no/such/folder': no such folder. score.model takes a folder" in refusal(
        "no/such/folder"
    )
    (tmp_path / "file").write_text("words")
    assert "a file, not a folder" in refusal(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "empty: holds no config.json" in refusal(tmp_path / "empty")


def test_the_hub_is_asked_for_what_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def answer(url: str, **_: object) -> None:
        asked.append(url)
        raise OSError("no hub in tests")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
    told = refusal("acme/scorer")
    assert asked == ["https://huggingface.co/acme/scorer/resolve/main/config.json"]
    assert "the hub did not answer (no hub in tests)" in told
    assert "hf download acme/scorer --local-dir FOLDER, then --set score.model=FOLDER" in told
