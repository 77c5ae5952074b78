"""How strongly a module of a LoRA acts: alpha / rank; with `use_rslora`, alpha / √rank.

A module's own alpha counts first, then that of peft's settings, then the rank: without any alpha
the product acts as it is. kohya's scripts, diffusers and ComfyUI do the same.
LoRA: https://arxiv.org/abs/2106.09685; rsLoRA: https://arxiv.org/abs/2312.03732
"""

from __future__ import annotations

import math

from batchgen.errors import ModelError
from batchgen.model.lora.peft_settings import PeftSettings


def find_strength(
    settings: PeftSettings, module: str, *, rank: int, alpha: float | None, where: str
) -> float:
    """The factor of a module's product.

    :param settings: of the module's component.
    :param module: its path, as the file writes it.
    :param alpha: the module's own, from the file; None: it has none.
    :param where: the module in its file, for messages.
    :raises ModelError: the settings tell another rank, or the alpha gives no strength.
    """
    if settings.rank(module) not in (None, rank):
        raise ModelError(
            f"{where} has rank {rank}, and its settings say {settings.rank(module)}; "
            "the file was changed after training: take the original"
        )
    if alpha is None:
        alpha = settings.alpha(module)
    if alpha is None and settings.use_rslora:
        raise ModelError(f"{where} has use_rslora, but no lora_alpha")
    if alpha is None:
        return 1.0
    if alpha == 0 or not math.isfinite(alpha):
        raise ModelError(
            f"{where} has alpha {alpha:g}, with which it would change nothing, or everything to "
            "NaN; expected a number other than 0"
        )
    return alpha / (math.sqrt(rank) if settings.use_rslora else rank)
