"""A gated MLP whose gate and value come from one linear: SwiGLU, GeGLU and their like,
https://arxiv.org/abs/2002.05202.

    x → (activation(gate) · value) · Wᵀ

Legend: R rows, S tokens, D width, F width of the MLP.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]


class GatedMLP(nn.Module):
    """What a gated MLP with two linears for one input becomes when these are fused (`fuse.py`)."""

    # D → 2·F: the gate, and then the value.
    to_gated: nn.Linear
    # F → D.
    to_out: nn.Linear
    # Of the gate.
    activation: Activation

    def forward(self, x: Tensor) -> Tensor:
        """[R, S, D] → [R, S, D]."""
        gate, value = self.to_gated(x).chunk(2, dim=-1)
        out: Tensor = self.to_out(self.activation(gate) * value)
        return out
