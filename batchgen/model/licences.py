"""Licences: what a model's files say of theirs, and whether two of them go together.

They are read from what stands beside the weights, as the hub has it: `license` and `license_name`
in the front matter of README.md, or the first line of a licence file. A LoRA may have its own in
its header. Nothing is concluded from a model's name or architecture, and nothing of this is advice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from batchgen.errors import one_line

# Read at most, of README.md and of a licence.
_MOST_BYTES = 2**16
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---", re.DOTALL | re.MULTILINE)
# The hub's words for a licence that is none of its list, and for none.
_NO_NAMES = ("other", "unknown", "")
_LIMITED = re.compile(r"(?<![a-z])nc(?![a-z])|non-?commercial|research-only")
# Ids of the hub for licences that allow research alone, without saying so.
_RESEARCH = ("apple-amlr", "intel-research")
# Begins of the hub's ids for licences that allow everybody to use a work commercially.
_OPEN = (
    *("afl", "agpl", "apache", "artistic", "bigcode-openrail", "bigscience-openrail", "bsd"),
    *("bsl-1.0", "cc-by", "cc0", "cdla", "creativeml-openrail", "ecl", "epl", "eupl", "gfdl"),
    *("gpl", "isc", "lgpl", "mit", "mpl", "ms-pl", "odbl", "odc-by", "ofl", "openrail", "osl"),
    *("pddl", "unlicense", "wtfpl", "zlib"),
)


def licence_beside(path: Path) -> str:
    """What the files of a folder say of its licence: the hub's id or a title; "" for nothing.

    :param path: the folder.
    """
    files = sorted(path.glob("[Ll][Ii][Cc][Ee][NnSs][CcSs][Ee]*"))
    title = next((title for title in map(_title, files) if title), "")
    matter = _front_matter(path / "README.md")
    named = [_word(matter.get(key)) for key in ("license", "license_name")]
    told = [name for name in named if name.lower() not in _NO_NAMES]
    return told[0] if told else title or named[0]


def licence_of_header(metadata: dict[str, Any]) -> str:
    """The licence in the header of a safetensors file that follows the model metadata standard."""
    return _word(metadata.get("modelspec.license"))


def forbids_commerce(licence: str) -> bool:
    """Whether a licence, by its name, is for non-commercial use or for research alone."""
    name = _id(licence)
    return name in _RESEARCH or bool(_LIMITED.search(name))


def is_open(licence: str) -> bool:
    """Whether a licence, by its id, lets everybody use a work commercially."""
    return _id(licence).startswith(_OPEN) and not forbids_commerce(licence)


def _id(licence: str) -> str:
    """As the hub would spell it: "CC BY 4.0" is cc-by-4.0."""
    return re.sub(r"[\s_]+", "-", licence.strip().lower())


def _front_matter(readme: Path) -> dict[str, Any]:
    found = _FRONT_MATTER.match(_begin(readme))
    try:
        content = yaml.safe_load(found[1]) if found else None
    except (yaml.YAMLError, ValueError, RecursionError):  # a date that is none is a ValueError
        return {}
    return content if isinstance(content, dict) else {}


def _title(licence: Path) -> str:
    """The first line of a licence file with a letter in it."""
    lines = (line.strip(" \t#*=-") for line in _begin(licence).splitlines())
    return _word(next((line for line in lines if re.search("[A-Za-z]", line)), ""))


def _begin(path: Path) -> str:
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            return file.read(_MOST_BYTES).decode(errors="replace")
    except OSError:
        return ""


def _word(value: Any) -> str:
    """A licence as one short line; a list of them is joined."""
    words = value if isinstance(value, list) else [value]
    return one_line(", ".join(str(word) for word in words if word is not None))[:100].strip()
