"""A job's model is seen or not; the hub answers or is offline; no token is ever printed."""

import os
from pathlib import Path

import pytest

from batchgen.doctor.finding import Finding
from batchgen.doctor.models import hub, located, model_files
from batchgen.model.locate import TINY
from batchgen.settings import load_job

SECRET = "hf_notarealtokenbutsecret"


def look(*settings: str) -> Finding:
    (found,) = hub(load_job(None, list(settings)) if settings else None)
    return found


def test_a_model_or_a_lora_that_is_not_here_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").symlink_to(TINY)
    for settings, state, told in (
        (["model.path=here"], "ok", str(TINY)),
        (["model.path=gone"], "failed", "model.path = 'gone'"),
        (['model.lora=[{path="gone.safetensors"}]'], "failed", "no such LoRA here: gone.safet"),
    ):
        (found,) = model_files(load_job(None, settings))
        assert (found.state, told in found.found) == (state, True), found
    assert list(model_files(load_job(None, ["model.path=org/name"]))) == [], "the hub tells"


def test_a_node_gets_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").symlink_to(TINY)
    job = located(load_job(None, ["model.path=here", 'model.lora=[{path="a.safetensors"}]']))
    assert job.model.path == str(tmp_path / "here")
    assert job.model.lora[0].path == str(tmp_path / "a.safetensors")
    assert located(load_job(None)).model.path == "tiny"


@pytest.mark.slow
def test_offline_on_purpose_is_told_and_fails_a_model_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", SECRET)
    told, model = look(), look("model.path=org/name")
    assert (told.state, told.found) == ("ok", "offline, as HF_HUB_OFFLINE asks, with a token")
    assert (model.state, model.found) == (
        "failed",
        "offline, as HF_HUB_OFFLINE asks, and its cache here lacks org/name",
    )
    assert "hf download org/name --local-dir FOLDER" in model.remedy
    assert SECRET not in f"{told}{model}"


@pytest.mark.slow
def test_a_hub_that_cannot_be_reached_is_told_once_and_without_passwords(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://me:secret@127.0.0.1:9")  # refuses
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    told, tiny, model = look(), look("sampling.steps=4"), look("model.path=org/name")
    assert (told.state, tiny.state, model.state) == ("warning", "ok", "failed")
    assert "not reachable (ConnectError: " in told.found
    assert tiny.found.endswith("; the job does not need it")
    assert "secret" not in f"{told}{tiny}{model}"
    assert os.environ["HTTPS_PROXY"]
