"""Graphs of torch.compile as PyTorch traced them, and what they ask of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor import compile_fx
from torch.fx import GraphModule

# Batches that a graph of several rows serves, up to far more than a card holds.
_BATCHES = (*range(2, 65), 100, 1000)


def record_graphs(patch: pytest.MonkeyPatch) -> list[GraphModule]:
    """Have graphs executed as they were traced. They are appended to the list."""
    graphs: list[GraphModule] = []

    def keep(graph: GraphModule, *_: Any, **__: Any) -> GraphModule:
        graphs.append(graph)
        return graph

    patch.setattr(compile_fx, "compile_fx", keep)
    return graphs


def symbolic_batches(graph: GraphModule) -> set[Any]:
    """The symbols that stand for the first dimensions of its inputs."""
    return {size.node.expr for size in _first_sizes(graph) if isinstance(size, torch.SymInt)}


def refusals(graph: GraphModule) -> list[str]:
    """What the graph asks of its inputs' sizes that not every batch of two or more fulfils."""
    (batch,) = symbolic_batches(graph)
    shapes = next(
        size.node.shape_env for size in _first_sizes(graph) if isinstance(size, torch.SymInt)
    )
    asked = [guard.expr for guard in shapes.guards if batch in guard.expr.free_symbols]
    within = shapes.var_to_range[batch]
    asked += [batch >= within.lower, batch <= within.upper]
    return [str(each) for each in asked if not all(_holds(each, n) for n in _BATCHES)]


def _holds(asked: Any, batch: int) -> bool:
    """Whether a batch fulfils it. Inputs' batches are symbols of their own, and equal."""
    return bool(asked.subs(dict.fromkeys(asked.free_symbols, batch)))


def _first_sizes(graph: GraphModule) -> list[int | torch.SymInt]:
    given = [node.meta.get("example_value") for node in graph.graph.nodes]
    placeholders = [node.op == "placeholder" for node in graph.graph.nodes]
    return [
        value.shape[0]
        for value, is_input in zip(given, placeholders, strict=True)
        if is_input and isinstance(value, Tensor) and value.ndim
    ]
