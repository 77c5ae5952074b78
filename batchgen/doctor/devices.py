"""The devices of this machine: the driver, the cards, and what the engine can do on them."""

from __future__ import annotations

import sys
from collections.abc import Generator

from batchgen.doctor.capabilities import IMPORT_S, capabilities
from batchgen.doctor.cards import Cards, judge_cards
from batchgen.doctor.child import NoAnswer, attempt
from batchgen.doctor.driver import driver
from batchgen.doctor.finding import Finding, failed
from batchgen.doctor.needs import Needs
from batchgen.errors import shell_command


def devices(needs: Needs) -> Generator[Finding, None, Cards]:
    """Driver, cards and capabilities. Without PyTorch nothing more can be tried.

    :return: the cards.
    """
    told, present = driver(needs)
    yield told
    try:
        answer = attempt("cards", limit_s=IMPORT_S)
    except NoAnswer as silence:
        torch = shell_command(sys.executable, "-m", "pip", "install", "--force-reinstall", "torch")
        why = f"PyTorch does not start, so nothing that needs it was tried: {silence}"
        yield failed("torch", why, f"nvidia-smi, where there are cards; else {torch}")
        return Cards()
    yield from judge_cards(answer, needs, present)
    cards = Cards.of(answer)
    yield from capabilities(cards, needs)
    return cards
