"""A run with a scorer: records have what transformers says of the published pictures."""

import io
import json
import re
import tarfile
from html import escape
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from PIL import Image

from batchgen.errors import PlanChanged
from batchgen.run import open_run
from tests.support.rehearsal import ask, records
from tests.support.specimens import write_prompts
from tests.support.tiny_scorers import LABELS, save_classifier, save_similarity

PROMPTS = [f"a {colour} {what}" for colour in ("red", "blue") for what in ("square", "circle")]
# The scorer of the run sees pictures in batches, and that of the test one by one.
NEAR = 1e-4


def submit(out: Path, *overrides: str) -> Any:
    """Make a row with two pictures of each prompt, without loss."""
    file = out.with_name("prompts.parquet")
    if not file.exists():
        write_prompts(file, PROMPTS, images=[2] * len(PROMPTS))
    usual = ["sampling.steps=2", "sampling.width=64", "sampling.height=64", "output.format=png"]
    words = [word for one in [*usual, "run.workers=1", *overrides] for word in ("--set", one)]
    return ask("submit", file, "--out", out, *words)


def stored(run: Path) -> dict[str, Image.Image]:
    """The published pictures, by key."""
    found = {}
    for path in sorted(run.glob("data/*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".png"):
                    content = tar.extractfile(member).read()
                    found[member.name[:-4]] = Image.open(io.BytesIO(content))
    return found


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_similarity(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def scored(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that CLIP scores, in groups of three."""
    out = tmp_path_factory.mktemp("scored") / "run"
    assert submit(out, f"score.model={clip}", "engine.batch_size=3").code == 0
    return out


@pytest.mark.slow
def test_scores_are_those_of_the_published_pixels(scored: Path, clip: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(clip)
    tokenizer = transformers.AutoTokenizer.from_pretrained(clip)
    pictures, found = stored(scored), records(scored)
    assert len(found) == len(pictures) == 2 * len(PROMPTS)
    for one in found:
        tokens = tokenizer([one["prompt"]], return_tensors="pt")
        with torch.no_grad():
            seen = model(**prepare(images=pictures[one["key"]], return_tensors="pt"), **tokens)
        assert one["score"] == pytest.approx(seen.logits_per_image.item(), rel=NEAR, abs=NEAR)
        assert one["score_s"] > 0
        assert (one["label"], one["labels"], one["label_scores"]) == (None, None, None)
    assert len({one["score"] for one in found}) == len(found)


@pytest.mark.slow
def test_another_scorer_makes_the_same_tars_and_labels_are_recorded(
    scored: Path, tmp_path: Path
) -> None:
    folder = save_classifier(tmp_path / "vit")
    run = tmp_path / "run"
    assert submit(run, f"score.model={folder}", "engine.batch_size=3").code == 0
    tars = [sorted(path.read_bytes() for path in root.glob("data/*.tar")) for root in (run, scored)]
    assert tars[0] == tars[1]
    found = records(run)
    for one in found:
        assert set(one["labels"]) == set(LABELS.values())
        assert (one["label"], one["score"]) == (one["labels"][0], one["label_scores"][0])
    labels = sorted({one["label"] for one in found})
    report, card = ((run / name).read_text() for name in ("report.html", "README.md"))
    assert all(f'<data value="{escape(label)}">' in report for label in labels)
    assert f"8 pictures were scored by `{folder.name}`" in card
    shown = ask("records", run).out
    assert json.loads(shown.splitlines()[0])["label"] == found[0]["label"]


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_scorer_wherever_it_is(
    scored: Path, clip: Path, tmp_path: Path
) -> None:
    other, moved = save_classifier(tmp_path / "other"), save_similarity(tmp_path / "moved")
    with pytest.raises(PlanChanged, match=r"weights\.score/model\.safetensors"):
        open_run(scored, [f"score.model={other}"])
    with pytest.raises(PlanChanged, match=r"weights\.score/model\.safetensors"):
        open_run(scored, ["score.model="])
    assert open_run(scored, [f"score.model={moved}"]).job.score.model == str(moved)
    assert open_run(scored, [f"score.model={clip}"]).checkpoint.scorer.folder == clip


def test_plan_tells_the_scorer_and_its_memory_and_refuses_what_is_none(
    clip: Path, tmp_path: Path
) -> None:
    file = write_prompts(tmp_path / "p.parquet", PROMPTS)
    told = ask("plan", file, "--set", f"score.model={clip}").out
    assert f"\nscore      every picture, by {clip}, in fp32\n" in told
    assert re.search(r"workspace 0\.5 GB, scorer \d+ MB, scoring \d+ MB; ", told)
    assert ", scorer" not in ask("plan", file).out
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"architectures": ["BertModel"]}')
    refused = ask("plan", file, "--set", f"score.model={tmp_path / 'bert'}")
    assert (refused.code, refused.out) == (2, "")
    assert "config.json: of BertModel, with which batchgen cannot score pictures" in refused.err


def test_a_rehearsal_scores_nothing(tmp_path: Path) -> None:
    file = write_prompts(tmp_path / "p.parquet", PROMPTS)
    answer = ask("plan", file, "--rehearse", "--set", "score.model=nowhere")
    assert answer.code == 0
    assert "\nscore " not in answer.out
