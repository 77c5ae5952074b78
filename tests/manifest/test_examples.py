"""manifests/: the example and its documentation are true."""

import re
import runpy
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from batchgen.manifest import find_files
from batchgen.manifest.contract import COLUMNS
from tests.manifest.validation import all_pictures, validate
from training.scenes import scene_of

MANIFESTS = Path(__file__).parents[2] / "manifests"


@pytest.fixture
def readme() -> str:
    return (MANIFESTS / "README.md").read_text()


@pytest.fixture
def example() -> Path:
    return MANIFESTS / "prompts.parquet"


def block(text: str, language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found
    return found[1]


def test_the_three_examples_of_the_readme_are_one_manifest(
    readme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(block(readme, "python"))
    expected = all_pictures(*find_files([tmp_path]))
    assert [p.id for p in expected] == ["circle", "stars", "stars", "stars"]
    for language, name in (("csv", "prompts.csv"), ("json", "prompts.jsonl")):
        (tmp_path / name).write_text(block(readme, language))
        validate(Path(name), parquet=tmp_path / "converted.parquet")
        assert all_pictures(tmp_path / "converted.parquet") == expected


def test_the_readme_has_every_column_of_the_contract(readme: str) -> None:
    assert [name for name in COLUMNS if f"`{name}`" not in readme] == []


def test_the_example_asks_for_240_pictures_of_three_sizes(example: Path) -> None:
    found = validate(example)
    sizes: Counter[tuple[int, int]] = Counter()
    for (width, height, _, _), count in found.shapes.items():
        sizes[width, height] += count
    assert (found.pictures, dict(sizes)) == (240, {(128, 128): 80, (192, 128): 80, (128, 192): 80})


def test_the_example_is_what_its_script_makes(example: Path) -> None:
    made = runpy.run_path(str(MANIFESTS / "make_prompts.py"))["table"]()
    assert pq.read_table(example).equals(made)


def test_the_captions_of_the_example_are_those_of_its_scenes(example: Path) -> None:
    for row in pq.read_table(example).to_pylist():
        drawn = scene_of(row["scene_seed"], row["width"], row["height"])
        assert (drawn.caption, drawn.held_out) == (row["prompt"], row["held_out"])
