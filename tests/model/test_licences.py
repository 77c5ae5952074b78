"""A model's files tell its licence, or nothing is said of it."""

from pathlib import Path

import pytest

from batchgen.model.licences import forbids_commerce, is_open, licence_beside, licence_of_header

FLUX = """---
language:
- en
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
---
# FLUX.1 [dev]
"""


@pytest.mark.parametrize(
    ("files", "licence"),
    [
        ({"README.md": FLUX}, "flux-1-dev-non-commercial-license"),
        ({"README.md": "---\nlicense: apache-2.0\ntags: [a]\n---\n"}, "apache-2.0"),
        ({"README.md": "\ufeff---\r\nlicense: mit\r\n---\r\nText"}, "mit"),
        ({"README.md": "---\nlicense: [mit, cc-by-nc-4.0]\n---\n"}, "mit, cc-by-nc-4.0"),
        ({"README.md": "---\nlicense: cc-by-nc-4.0\nlicense_name: ours\n---\n"}, "cc-by-nc-4.0"),
        ({"README.md": "---\nlicense: other\n---\n", "LICENSE.md": "\n# A Licence\n"}, "A Licence"),
        ({"README.md": "---\nlicense: mit\n---\n", "LICENSE": "Apache"}, "mit"),
        ({"licence.txt": "  FLUX Non-Commercial License v2.0\nmore"}, None),
        ({"README.md": "---\nlicense: other\n---\n"}, "other"),
        ({"README.md": "# A model\nlicense: mit\n---\n"}, ""),
        ({"README.md": "---\nlicense: {\n---\n"}, ""),
        ({"README.md": "---\nreleased: 2024-99-99\n---\n"}, ""),
        ({"README.md": "---\n- a\n---\n"}, ""),
        ({"README.md": "---\nlicense:\n---\n"}, ""),
        ({}, ""),
    ],
)
def test_it_is_read_from_the_front_matter_or_is_the_title_of_a_licence(
    files: dict[str, str], licence: str | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    expected = "FLUX Non-Commercial License v2.0" if licence is None else licence
    assert licence_beside(tmp_path) == expected


def test_whatever_a_readme_holds_one_short_line_is_told(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b'---\nlicense: "a\\nb' + b"x" * 5000 + b'"\n---\n\xff')
    assert len(licence_beside(tmp_path)) <= 100
    assert "\n" not in licence_beside(tmp_path)
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert licence_beside(tmp_path) == ""


def test_a_lora_may_tell_its_licence_in_its_header() -> None:
    assert licence_of_header({"modelspec.license": "cc-by-nc-4.0"}) == "cc-by-nc-4.0"
    assert licence_of_header({"format": "pt"}) == ""


LIMITED = [
    "cc-by-nc-4.0",
    "CC-BY-NC-SA",
    "flux-1-dev-non-commercial-license",
    "sai-nc-community",
    "apple-amlr",
    "stabilityai-nc-research-community",
    "fair-noncommercial-research-license",
    "cc_by_nc",
]
OPEN = [
    "apache-2.0",
    "mit",
    "cc0-1.0",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "odc-by",
    "pddl",
    "openrail++",
    "creativeml-openrail-m",
    "CC-BY-4.0",
    "bsl-1.0",
]
NEITHER = [
    "other",
    "unknown",
    "",
    "stabilityai-ai-community",
    "once",
    "Licence of ours",
    "busl-1.1",
]


@pytest.mark.parametrize("name", [*LIMITED, "FLUX Non-Commercial License v2.0", "Research only"])
def test_a_name_that_says_non_commercial_forbids_commerce(name: str) -> None:
    assert forbids_commerce(name)
    assert not is_open(name)


@pytest.mark.parametrize("name", [*OPEN, "CC BY 4.0", "Apache 2.0"])
def test_licences_that_let_everybody_use_a_work_commercially_are_open(name: str) -> None:
    assert is_open(name)
    assert not forbids_commerce(name)


@pytest.mark.parametrize("name", NEITHER)
def test_of_other_licences_nothing_is_concluded(name: str) -> None:
    assert (is_open(name), forbids_commerce(name)) == (False, False)
