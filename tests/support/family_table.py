"""docs/families.md: every family with every technique, as planning accepts or refuses them.

    python -m tests.support.family_table        writes it

Nothing in the table is written by hand but the names of techniques and of the tests that hold them
to what they promise. Whether a family has one is what `batchgen plan` says of a small model of the
family, on a machine of H100 cards.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from batchgen.errors import BatchgenError
from batchgen.model import Checkpoint
from batchgen.model.checkpoint import resolve
from batchgen.planning import Hardware, dry_run, refuse_impossible, refuse_unfit
from batchgen.settings.job import Job, parse_job
from batchgen.settings.written import mark_written
from tests.support.every_family import FAMILIES
from tests.support.rehearsal import write_prompts
from tests.support.tiny_families import TEXT_TOKENS, TinyFamily

DOCUMENT = Path(__file__).parents[2] / "docs" / "families.md"
CARDS = Hardware(True, "H100", 85_520_809_984, (9, 0), tuple(map(str, range(8))))
# Tests that every family passes, and others.
_EVERY = "tests/engine/families/test_every_family.py"
_TOGETHER, _CARD = "tests/engine/test_combined.py", "tests/cuda/test_emulated_card.py"
_POLICIES = "tests/engine/cache/test_velocities.py"
_SCHEDULES = "tests/engine/cache/test_schedules.py"
_KERNELS, _HALVES = (
    "tests/engine/attention/test_lengths.py",
    "tests/engine/parallel/test_halves.py",
)
Sections = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Technique:
    """A row of the table."""

    name: str
    # As a job file has it.
    sections: Sections
    # A file of tests, and a test in it; of other rows than those of `_EVERY` with some families.
    test: tuple[str, str]
    # Guided pictures alone can have it.
    guided: bool = False

    @property
    def written(self) -> str:
        """What a person writes into the job file."""
        if not self.sections:
            return "nothing"
        if "lora" in self.sections.get("model", {}):
            return '`[[model.lora]] path = "…"`'
        return "; ".join(
            f"`[{section}] {', '.join(f'{key} = {_toml(value)}' for key, value in keys.items())}`"
            for section, keys in self.sections.items()
        )


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def _cache(policy: str, test: tuple[str, str], **keys: Any) -> Technique:
    return Technique(f"cache: {policy}", {"cache": {"policy": policy, **keys}}, test)


def _parallel(name: str, test: tuple[str, str], *, guided: bool = False, **keys: int) -> Technique:
    return Technique(name, {"parallel": keys}, test, guided)


_ALONE = _EVERY, "test_a_picture_is_the_same_alone_and_in_a_group"
_RANKS = _EVERY, "test_two_ranks_paint_what_one_does"
_EIGHT = _EVERY, "test_all_linears_of_the_blocks_and_no_others_are_quantized"
_FP8 = _TOGETHER, "test_stable_diffusion_in_fp8_paints_a_picture_over_ranks_and_in_a_group_as_alone"
_DECODED = _EVERY, "test_latents_and_pixels_equal_stock"
_OFFLOADED = _CARD, "test_the_engine_paints_on_a_card_what_it_paints_on_the_cpu"
_ON_CARD = _OFFLOADED
TECHNIQUES = (
    Technique(
        "LoRA, fused at load",
        {"model": {"lora": []}},
        (_EVERY, "test_a_lora_of_every_linear_is_what_a_change_of_the_weights_is"),
    ),
    Technique("8 bits: int8", {"precision": {"linear": "int8"}}, _EIGHT),
    Technique("8 bits: FP8", {"precision": {"linear": "fp8"}}, _FP8),
    Technique("8 bits: text encoder", {"precision": {"text": "int8"}}, _EIGHT),
    Technique(
        "compiled blocks",
        {"compile": {"mode": "default"}},
        (_EVERY, "test_compiled_blocks_compute_what_the_others_do"),
    ),
    Technique("offload: text", {"engine": {"offload": "text"}}, _OFFLOADED),
    Technique("offload: model", {"engine": {"offload": "model"}}, _OFFLOADED),
    Technique(
        "offload: layers",
        {"engine": {"offload": "layers"}},
        (_EVERY, "test_blocks_that_come_in_turn_compute_the_same_bits"),
    ),
    _cache("multistep", _ALONE),
    _cache("first_block", _ALONE),
    _cache("adacache", (_POLICIES, "")),
    _cache("schedule", (_POLICIES, ""), skip=[2, 3, 5]),
    _cache("teacache", (_POLICIES, "")),
    Technique(
        "products recorded",
        {"cache": {"record": True}},
        ("tests/engine/cache/test_schedules.py", ""),
    ),
    _parallel("ranks: Ulysses", _RANKS, cp=2, ulysses=2),
    _parallel("ranks: ring", _RANKS, cp=2, ring=2),
    _parallel("ranks: both", ("tests/engine/parallel/test_context_parallel.py", ""), cp=4, ring=2),
    _parallel("ranks: halves for guidance", _RANKS, guided=True, cfg=2),
    _parallel(
        "ranks: halves of two",
        ("tests/engine/parallel/test_halves.py", ""),
        guided=True,
        cp=2,
        cfg=2,
    ),
    Technique("decoding in bands", {}, _DECODED),
    Technique("attention: cudnn", {"engine": {"attention": "cudnn"}}, _ON_CARD),
    Technique("attention: flash", {"engine": {"attention": "flash"}}, _ON_CARD),
    Technique("attention: fa3", {"engine": {"attention": "fa3"}}, _ON_CARD),
    Technique("attention: math", {"engine": {"attention": "math"}}, (_KERNELS, "")),
)


class Model:
    """A small model of a family, and what planning says of jobs with it."""

    def __init__(self, family: TinyFamily, folder: Path) -> None:
        self.family, self.folder = family, folder
        self.checkpoint: Checkpoint = resolve(parse_job(_model(family.save(folder)), "").model)
        self._lora = folder.with_suffix(".safetensors")
        linears = self.checkpoint.linears()
        name, (out, into) = next(each for each in linears.items() if each[0].startswith("transf"))
        linear = f"lora_unet_{name.partition('.')[2]}"
        down, up = torch.ones(1, into), torch.ones(out, 1)
        save_file({f"{linear}.lora_down.weight": down, f"{linear}.lora_up.weight": up}, self._lora)
        self._prompts = write_prompts(folder.with_suffix(".parquet"), ["a red circle"])

    def refusal(self, technique: Technique, *, guided: bool) -> str:
        """What planning says against a technique; "": nothing.

        :param guided: with classifier-free guidance.
        """
        job = self._job(technique.sections, guided=guided)
        try:
            checkpoint = resolve(job.model)  # a LoRA must fit
            refuse_impossible(job, checkpoint, CARDS)
            refuse_unfit(job, checkpoint, dry_run([self._prompts], job, checkpoint), CARDS)
        except BatchgenError as error:
            said = str(error).replace(f"for {self.checkpoint.family};", "for this family;")
            return "; ".join(line.strip() for line in said.splitlines()).replace(":; ", " ")
        return ""

    def _job(self, sections: Sections, *, guided: bool) -> Job:
        given = _model(self.folder)
        given["sampling"] = {"width": 128, "height": 128, "steps": 20} | self._scale(guided=guided)
        for section, keys in sections.items():
            given[section] = given.get(section, {}) | keys
        if "lora" in given["model"]:
            given["model"]["lora"] = [{"path": str(self._lora)}]
        return mark_written(parse_job(given, "a row"), {name: dict(given[name]) for name in given})

    def _scale(self, *, guided: bool) -> dict[str, Any]:
        if self.family.contrasts:
            return {"guidance": 4.5 if guided else self.family.unguided}
        return {"true_cfg": 2.5, "negative_prompt": "blue"} if guided else {}


def _model(folder: Path) -> Sections:
    return {"model": {"path": str(folder), "max_sequence_length": TEXT_TOKENS}}


def table(models: Mapping[str, Model]) -> str:
    """The document."""
    reasons: dict[str, int] = {}

    def cell(technique: Technique, model: Model) -> str:
        if not (said := model.refusal(technique, guided=True)):
            return "yes" if technique.test[0] == _EVERY else "yes*"
        return f"no [{reasons.setdefault(said, len(reasons) + 1)}]"

    rows = [["technique", *models], ["---"] * (len(models) + 1)]
    rows += [[each.name, *(cell(each, its) for its in models.values())] for each in TECHNIQUES]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    held = [f"| {each.name} | {each.written} | {_where(each)} |" for each in TECHNIQUES]
    told = [f"{number}. {said}" for said, number in reasons.items()]
    return "\n".join([_HEAD, *lines, "", *told, "", _HELD, *held, ""])


def _where(technique: Technique) -> str:
    file, test = technique.test
    return f"`{file}{'::' if test else ''}{test}`"


_HEAD = """# Families and techniques

Made by `python -m tests.support.family_table`, and compared by a test with what planning says of a
small model of each family. *yes*: a test that runs for every family holds the technique to the
plain path. *yes\\**: planning takes it, and the technique's own tests hold it to the plain path
with some family. *no*: refused when the run is planned, with the reason below.

Halves of a replica (`cfg = 2`) need a picture with classifier-free guidance, as these have; without
one they are refused.
"""
_HELD = """What is written in the job file, and the tests. Bands need no asking: pictures of
2048×2048 px and more are decoded so by several ranks, and from 2896×2896 px on by a single one.

| technique | job file | tests |
| --- | --- | --- |"""


def small_models(folder: Path, names: Sequence[str] = tuple(FAMILIES)) -> dict[str, Model]:
    """A small model of each family, saved in a folder."""
    return {name: Model(FAMILIES[name], folder / name.replace(" ", "-")) for name in names}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        DOCUMENT.write_text(table(small_models(Path(place))))
