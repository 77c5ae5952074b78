"""One model that comes and goes.

Weights never change, so the host keeps a copy for good, and nothing is ever copied back. Memory and
copies are ordered by the stream on which the model computes: the host waits for nothing, and no
other stream may use the model.
"""

from __future__ import annotations

import torch
from torch import nn

from batchgen.engine.offload.weights import Pinned, weights


class Traveller:
    """A model that is on the device only from `arrive` to `leave`."""

    # Outside of inference mode, for its tensors would be of another kind than a model's.
    @torch.inference_mode(mode=False)
    def __init__(self, model: nn.Module, device: torch.device) -> None:
        """Move the model to the host."""
        self._device, host = device, Pinned(device)
        self._homes = [(weight, host.settle(weight)) for weight in weights(model)]

    @torch.inference_mode(mode=False)
    def arrive(self) -> None:
        """Be on the device for all work that is queued from now on."""
        for weight, home in self._homes:
            weight.put(home.to(self._device, non_blocking=True))

    @torch.inference_mode(mode=False)
    def leave(self) -> None:
        """Give the device's memory back, to whatever is queued from now on."""
        for weight, home in self._homes:
            weight.put(home)
