"""An NVIDIA driver of any cards: a script in the place of nvidia-smi."""

from collections.abc import Callable
from pathlib import Path

Driver = Callable[..., None]
"""Called with a line for each card: its id, MiB, compute capability and name."""


def write_driver(folder: Path, cards: tuple[str, ...]) -> None:
    """An executable nvidia-smi that knows these cards."""
    listing = "\n".join(
        f"GPU {number}: {card.rpartition(', ')[2]} (UUID: {card.partition(',')[0]})"
        for number, card in enumerate(cards)
    )
    script = folder / "nvidia-smi"
    script.write_text(
        f"#!/bin/sh\nif [ \"$1\" = -L ]; then echo '{listing}'; else echo '{chr(10).join(cards)}'; fi\n"
    )
    script.chmod(0o755)
