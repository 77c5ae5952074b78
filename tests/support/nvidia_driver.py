"""An NVIDIA driver of any cards: a script in the place of nvidia-smi."""

from collections.abc import Callable
from pathlib import Path

# Called with a line for each card: "id, MiB, compute capability, name".
Driver = Callable[..., None]


def write_driver(folder: Path, cards: tuple[str, ...]) -> None:
    """Write an executable nvidia-smi that knows these cards."""
    named = (card.split(", ") for card in cards)
    listed = [f"GPU {number}: {c[-1]} (UUID: {c[0]})" for number, c in enumerate(named)]
    answers = ["\n".join(listed), "\n".join(cards)]
    script = folder / "nvidia-smi"
    script.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -L ]; then echo '{answers[0]}'; else echo '{answers[1]}'; fi\n"
    )
    script.chmod(0o755)
