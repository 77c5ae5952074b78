"""Regional compilation: the transformer's blocks, as few graphs as their shapes need, each compiled before the first picture.

57 blocks of FLUX.1 are of two kinds. A block's weights are inputs of its graph, so all blocks of a kind share it: what takes time is
kinds × shapes. Of the shapes, a single row is a graph of its own (the compiler takes sizes 0 and 1 for constants); all larger numbers
of rows share one, whose batch dimension is symbolic. Image tokens are constants while a run has few sizes, which gives the faster
code, and symbolic beyond.

    graphs = kinds × (sizes, or 1 if they are many) × (1 row, more rows)

`warm` makes every graph and tries all numbers of rows. What happens to a call that would need another is in `regions.py`.

Not covered: text encoders, the embedding before the blocks and the head after them; the VAE sees to itself (`vae.py`). Rounding differs
from eager mode's, because fused operations keep fp32 between them.

Legend: R rows of a transformer call, S text tokens, T image tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._dynamo import mark_dynamic

from batchgen.engine.compile.compiler import Compiler, Inputs, Region, shapes
from batchgen.errors import JobError

Block = Callable[
    ..., Any
]  # a diffusers block: (hidden_states=, encoder_hidden_states=, temb=, …) → tensors, or None for one it drops
Outputs = tuple[Tensor | None, ...]
Size = TypeVar("Size")

STATIC_SIZES = 8  # with more different sizes than this, they are symbolic
MANY = 2  # the fewest rows of a graph with a symbolic batch
_ROWS = (
    "hidden_states",
    "encoder_hidden_states",
    "temb",
)  # the inputs that have a row for each picture


class CompiledBlocks:
    """A transformer's blocks, compiled while `warm` calls them."""

    def __init__(self, blocks: Sequence[Block], plan: _Plan) -> None:
        self._plan = plan
        self.blocks: list[Block] = [_Compiled(block, plan) for block in blocks]

    @torch.inference_mode()
    def warm(self, run: Callable[[Size, int], object], sizes: Iterable[Size]) -> None:
        """Make every graph of the plan. The blocks work in inference mode only, as here.

        :param run: takes so many rows of a size through all blocks once, in the dtype and on the device of the pictures.
        :param sizes: the planned ones; together they have all the planned image tokens.
        :raises JobError: some planned image tokens were not among the sizes.
        """
        for size in sizes:
            # Most rows first: the compiler tunes a symbolic batch for the number it sees first.
            for rows in sorted({1, min(MANY, self._plan.rows), self._plan.rows}, reverse=True):
                run(size, rows)
            self._plan.try_all_rows()
        self._plan.check_all_tokens()


def compile_blocks(
    blocks: Sequence[Block],
    compiler: Compiler,
    tokens: Collection[int],
    rows: int,
    static: int = STATIC_SIZES,
) -> CompiledBlocks:
    """Blocks that compile while `warm` calls them.

    :param blocks: modules, final: weights quantized, attention put in. They are not changed.
    :param tokens: image tokens T of the planned sizes as they reach a block, which is a rank's share.
    :param rows: the most rows R of a call; all numbers from 1 on are planned.
    :param static: with more different T than this, T is symbolic.
    """
    return CompiledBlocks(
        blocks, _Plan(compiler, frozenset(tokens), rows, static=len(set(tokens)) <= static)
    )


class _Compiled:
    """A block whose calls go to the graph that its kind and their shape share."""

    def __init__(self, block: Block, plan: _Plan) -> None:
        self.block, self._plan = block, plan
        self.kind = plan.kind(block)

    def __call__(self, **inputs: Any) -> Outputs:
        """See the block; `hidden_states` [R, T, D], `encoder_hidden_states` [R, S, D]. Results are contiguous."""
        return self._plan.call(self, inputs)


class _Plan:
    """The shapes that blocks are compiled for."""

    def __init__(
        self, compiler: Compiler, tokens: frozenset[int], rows: int, *, static: bool
    ) -> None:
        self.rows = rows
        self._tokens, self._static = tokens, static
        self._told = (
            f"Compiled are 1 to {rows} rows of {', '.join(map(str, sorted(tokens)))} image tokens."
        )
        self._region = Region(compiler, _call_block, self._mark, self._told)
        self._kinds: dict[object, int] = {}
        self._samples: dict[
            int, tuple[_Compiled, Inputs]
        ] = {}  # by kind: how it was called last with several rows in the warm-up
        self._seen: set[int] = set()

    def kind(self, block: Block) -> int:
        """A number that blocks share whose graphs are the same: those of one class, with weights of equal names, shapes and types."""
        assert isinstance(block, torch.nn.Module), "a block's weights tell its kind"
        weights = tuple(
            (name, weight.shape, weight.dtype, type(weight))
            for name, weight in block.named_parameters()
        )
        return self._kinds.setdefault((type(block), weights), len(self._kinds))

    def call(self, compiled: _Compiled, inputs: Inputs) -> Outputs:
        """The block's results, from the graph for its kind and this shape.

        :raises JobError: the shape is not in the plan, or something else would need a graph that the warm-up has not made.
        """
        rows, tokens = inputs["hidden_states"].shape[:2]
        if tokens not in self._tokens or not 1 <= rows <= self.rows:
            raise JobError(
                f"{shapes(inputs)}: {rows} rows of {tokens} image tokens are not in the plan. {self._told}"
            )
        if not self._region.compiler.sealed:
            self._seen.add(tokens)
            if rows >= MANY:
                self._samples[compiled.kind] = compiled, inputs
        outputs: Outputs = self._region(
            (compiled.kind, tokens if self._static else None, rows >= MANY), compiled.block, inputs
        )
        return outputs

    def try_all_rows(self) -> None:
        """Call each graph of several rows, for the size it was called with last, with every planned number of them.

        So the compiler adds what a graph is not good for: from some number of rows on, for example, indices need 64 bits. One block
        stands for its kind; this takes a fraction of a step.
        """
        for compiled, inputs in list(self._samples.values()):
            for rows in range(MANY, self.rows + 1):
                repeated = {
                    name: inputs[name][:1].expand(rows, *inputs[name].shape[1:]) for name in _ROWS
                }
                self.call(compiled, inputs | repeated)
        self._samples.clear()  # activations

    def check_all_tokens(self) -> None:
        """:raises JobError: some planned image tokens were never tried."""
        if missing := sorted(self._tokens - self._seen):
            raise JobError(
                f"{', '.join(map(str, missing))} image tokens are planned, but no size of the warm-up has so many"
            )

    def _mark(self, inputs: Inputs) -> None:
        """Say which dimensions are symbolic. A compiler that could only make constants of them raises."""
        for name in _ROWS if inputs["hidden_states"].shape[0] >= MANY else ():
            mark_dynamic(inputs[name], 0)
        if not self._static:
            mark_dynamic(inputs["hidden_states"], 1)
            for table in inputs.get("image_rotary_emb") or ():  # cos and sin, [S + T, ·]
                mark_dynamic(table, 0)


def _call_block(block: Block, inputs: Inputs) -> Outputs:
    """What is compiled: the block, its results in tensors of their own.

    A FLUX single block returns two views of one long tensor; the next block, seeing strides that the first did not, would need another
    graph. The copy costs nothing: the compiler lets the last operation write there.
    """
    return tuple(
        None if output is None else output.clone(memory_format=torch.contiguous_format)
        for output in block(**inputs)
    )
