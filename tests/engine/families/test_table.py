"""docs/families.md says what planning says, and names tests that there are."""

import re
from pathlib import Path

import pytest

from tests.support.family_table import DOCUMENT, TECHNIQUES, small_models, table

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_the_table_of_families_and_techniques_is_what_planning_says(tmp_path: Path) -> None:
    assert DOCUMENT.read_text() == table(small_models(tmp_path)), (
        "docs/families.md: python -m tests.support.family_table"
    )


@pytest.mark.slow
def test_halves_are_refused_to_pictures_without_guidance_of_any_family(tmp_path: Path) -> None:
    """Others are refused alike, with guidance and without."""
    for model in small_models(tmp_path, ["klein base", "klein distilled"]).values():
        for technique in TECHNIQUES:
            said = model.refusal(technique, guided=False)
            assert ("no row has classifier-free guidance" in said) == technique.guided
            assert technique.guided or said == model.refusal(technique, guided=True)


def test_the_tests_that_the_table_names_are_there() -> None:
    for technique in TECHNIQUES:
        file, test = technique.test
        defined = re.findall(r"^def (test_\w+)", (ROOT / file).read_text(), re.MULTILINE)
        assert test in defined if test else defined, technique.name
