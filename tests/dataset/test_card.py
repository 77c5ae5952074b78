"""The dataset card: what loaders and people read. Every snippet of it is run as printed."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import DatasetCard

from batchgen.dataset.card import dataset_card
from batchgen.dataset.scores import Scores
from batchgen.dataset.statistics import Statistics
from batchgen.run import RunDirectory
from batchgen.shard import Loss
from tests.support.rehearsal import Answer, records
from tests.support.specimens import planned

Finished = tuple[Path, Answer]
NOTHING = Statistics(0, 0, 0, {}, {}, {}, 0, 0.0, {})


def test_its_front_matter_is_yaml_with_licence_and_one_split(finished: Finished) -> None:
    matter = yaml.safe_load((finished[0] / "README.md").read_text().split("---\n")[1])
    assert matter["license"] == "cc0-1.0"
    assert matter["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "data/*.tar"}]}
    ]
    assert matter["size_categories"] == ["n<1K"]


def test_it_links_the_report(finished: Finished) -> None:
    assert "[report.html](report.html)" in (finished[0] / "README.md").read_text()
    assert (finished[0] / "report.html").exists()


def test_it_tells_how_many_pictures_failed_and_why(finished: Finished) -> None:
    text = (finished[0] / "README.md").read_text()
    assert "10 of 40 planned pictures could not be made (9 exception, 1 not finite)." in text


@pytest.mark.slow
@pytest.mark.parametrize("module", ["datasets", "webdataset", "wids"])
def test_its_snippet_loads_every_good_picture(
    finished: Finished, module: str, tmp_path: Path
) -> None:
    """A shard without one good picture has no tar, and the snippet does not stumble over it."""
    run, _ = finished
    pytest.importorskip(module)
    snippets = re.findall(
        r"^```python\n(.*?\n)```$", (run / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    (snippet,) = [text for text in snippets if re.search(rf"(import|from) {module}\b", text)]
    name = re.findall(r"^(\w+) = ", snippet, re.MULTILINE)[-1]
    environment = os.environ | {"HF_HOME": str(tmp_path), "WIDS_CACHE": str(tmp_path)}
    code = f"{snippet}\nprint(sum(1 for _ in {name}))"
    command = [sys.executable, "-W", "error:set WebDataset", "-c", code]
    told = subprocess.run(
        command, cwd=run.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert told.stdout.split()[-1:] == ["30"], told.stderr


def test_statistics_can_be_recomputed_from_the_records(finished: Finished) -> None:
    told, rows = json.loads((finished[0] / "statistics.json").read_text()), records(finished[0])
    good = [row for row in rows if row["outcome"] == "ok"]
    assert (told["pictures"], told["ok"]) == (len(rows), len(good))
    assert told["failed"] == len(rows) - len(good)
    assert told["failures"] == Counter(row["cause"] for row in rows if row["cause"])
    assert told["sizes"] == Counter(f"{row['width']}x{row['height']}" for row in good)
    assert told["paths"] == Counter(row["path"] for row in good)
    assert told["tar_bytes"] == sum(path.stat().st_size for path in finished[0].glob("data/*.tar"))
    shares = [row["device_s"] for row in rows]
    assert told["device_s"] == pytest.approx(sum(shares))
    p95 = np.quantile([row["total_s"] for row in good], 0.95)
    assert told["seconds"]["total_s"]["p95"] == p95


def test_the_contact_sheet_holds_the_good_pictures(finished: Finished) -> None:
    from PIL import Image

    with Image.open(finished[0] / "contact.jpg") as sheet:
        assert sheet.width > sheet.height > 3 * 160  # thirty pictures, ten a row


@pytest.mark.parametrize(
    "text",
    ["cc-by: 4.0", 'the "best" licence', "a # b", "two\nlines", "- [x]", "null", "日本", "'"],
)
def test_its_front_matter_survives_any_licence_and_name(text: str, tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"])
    output = run.job.output.model_copy(update={"license": text})
    run = dataclasses.replace(run, job=run.job.model_copy(update={"output": output}))
    named = RunDirectory(tmp_path / text.replace("/", ""))
    card = dataset_card(dataclasses.replace(run, directory=named), NOTHING)
    matter = DatasetCard(card, ignore_metadata_errors=False).data
    assert (matter.license, matter.pretty_name) == (text, text)
    assert matter.configs[0]["data_files"] == [{"split": "train", "path": "data/*.tar"}]
    assert f"load_dataset({json.dumps(text, ensure_ascii=False)}, split" in card


def test_it_tells_what_the_step_cache_costs_and_nothing_without_an_audit(tmp_path: Path) -> None:
    cached = ["cache.policy=multistep", "audit.fraction=0.5"]
    for name in ("any", "floor"):
        (tmp_path / name).mkdir()
    run = planned(tmp_path / "any", ["a cat"], *cached)
    assert "step cache" not in dataset_card(run, NOTHING)
    some = dataclasses.replace(NOTHING, loss=Loss(8, 2, 1, 45.06, 30.0, 0.99, 0.9, 3.0))
    text = " ".join(dataset_card(run, some).split())
    assert "10 pictures, chosen by a hash of their keys, were also made without" in text
    assert "2 of them were not measured: `audit_error` says why." in text
    assert "| | mean | worst | |---|---|---| | PSNR, dB | 45.1 | 30.0 | | SSIM |" in text
    floor = planned(tmp_path / "floor", ["a cat"], *cached, "audit.min_psnr=40")
    text = " ".join(dataset_card(floor, some).split())
    assert "| | mean | worst | below 40 dB | |---|---|---|---| | PSNR, dB | 45.1 |" in text
    assert "| 30.0 | 12.5% | | SSIM | 0.9900 | 0.9000 | |" in text
    none = dataclasses.replace(NOTHING, loss=Loss(unmeasured=1))
    assert "1 of them was not measured" in dataset_card(run, none)


def test_it_tells_how_scores_are_spread_and_nothing_without_a_scorer(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"], "score.model=models/pickscore")
    assert "## Scores" not in dataset_card(run, NOTHING)
    numbers = dataclasses.replace(NOTHING, scores=Scores(8, 2, 21.456, 18.0, 24.25))
    text = " ".join(dataset_card(run, numbers).split())
    assert "8 pictures were scored by `models/pickscore`, in fp32, before they were encoded" in text
    score = run.job.score.model_copy(update={"model": "/home/me/models/pickscore"})
    found = dataclasses.replace(run, job=run.job.model_copy(update={"score": score}))
    assert "were scored by `pickscore`, in" in dataset_card(found, numbers), "no path of a machine"
    assert "2 good pictures have no score; the workers' logs say why." in text
    assert "| mean | lowest | highest | |---|---|---| | 21.46 | 18 | 24.25 |" in text
    labels = {"normal": 7, "<b>|\n": 1}
    found = dataclasses.replace(NOTHING, scores=Scores(8, 0, 0.9, 0.5, 1.0, labels))
    text = dataset_card(run, found)
    assert "| most probable label | pictures |\n|---|---|\n| normal | 7 |\n" in text
    assert "| &lt;b>\\|\\n | 1 |\n" in text
    assert "| mean | lowest |" not in text
    assert "no score" not in text
