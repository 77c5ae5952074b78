"""The cards that PyTorch sees, compared with those that are there, needed or promised."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.doctor.needs import Needs
from batchgen.errors import counted
from batchgen.planning.hardware import GIB
from batchgen.settings import Site
from batchgen.units import data_size

_INSTALL = "Install a build of PyTorch for this driver: https://pytorch.org/get-started/locally"
# A card with less than this share free has another user.
_MINE = 0.9
# Drivers keep some of the memory that a card is sold with.
_LIKE = 0.9


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards that PyTorch computes on."""

    count: int = 0
    # Of the first one.
    name: str = "this machine's CPU"
    capability: tuple[int, int] | None = None

    @classmethod
    def of(cls, answer: dict[str, Any]) -> Cards:
        """The cards of the trial `cards`."""
        if not (found := answer["cards"]):
            return cls()
        return cls(len(found), found[0]["name"], (*found[0]["capability"],))


def judge_cards(answer: dict[str, Any], needs: Needs, present: int) -> Iterator[Finding]:
    """Whether PyTorch sees the cards that are there, as many as needed, and what it does then.

    :param answer: of the trial `cards`.
    :param present: cards that the driver has.
    """
    yield from _seen(answer, needs, present)
    if needs.site and answer["cards"]:
        yield _profile(answer["cards"][0], needs.site)


def _seen(answer: dict[str, Any], needs: Needs, present: int) -> Iterator[Finding]:
    """Whether PyTorch sees the cards that are there, and as many as are needed."""
    found, cards = f"PyTorch {answer['torch']}", answer["cards"]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if given is None else f' (CUDA_VISIBLE_DEVICES is "{given}")'
    if not answer["cuda"]:
        found += ", built without CUDA"
    elif not cards:
        found += f", built for CUDA {answer['cuda']}, sees no card{hidden}"
    if answer["why"]:
        found += f": {answer['why']}"
    listed = [f"{card['name']}, {data_size(card['total'])}" for card in cards]
    found += f" computes on {'; '.join(listed)}{hidden}" if cards else ""
    if len(cards) < needs.cards:
        site = f"the site profile says gpus_per_node = {needs.cards}"
        wanted = site if needs.site else f"the job needs {counted(needs.cards, 'card')}"
        remedy = "nvidia-smi -L lists them; or name a site that has more, with --site"
        if (present and not answer["cuda"]) or answer["why"]:
            remedy = _INSTALL
        yield failed("torch", f"{found}; {wanted}", remedy)
    elif present and not cards and given not in ("", "-1"):
        yield failed("torch", f"{found}; the driver has {counted(present, 'card')}", _INSTALL)
    else:
        yield ok("torch", found if cards else f"{found}; it computes on the CPU")
    busy = [
        f"card {number}: {data_size(card['total'] - card['free'])}"
        for number, card in enumerate(cards)
        if card["free"] < _MINE * card["total"]
    ]
    if busy:
        told = f"memory is taken by other processes ({'; '.join(busy)})"
        yield warning("free_cards", told, "nvidia-smi shows them")


def _profile(card: dict[str, Any], site: Site) -> Finding:
    """Whether the profile describes the card: planning refuses jobs by it, or lets them through."""
    major, minor = card["capability"]
    gib, can = card["total"] / GIB, f"{major}.{minor}"
    told = f'this node\'s card has gpu_memory_gib = {gib:.0f}, gpu_capability = "{can}"'
    memory, capability = site.gpu_memory_gib, site.gpu_capability
    if capability not in (None, can) or (memory and not _LIKE < gib / memory < 1 / _LIKE):
        said = ", ".join(f"{key} = {value}" for key, value in site if key.startswith("gpu_"))
        remedy = "Correct the site profile; with several kinds of cards, choose one: constraint"
        return warning("profile", f"{told}; the site profile says {said}", remedy)
    return ok("profile", told + ("" if memory and capability else ": the site profile may say so"))
