"""Regional compilation: the transformer's blocks in few graphs, all made before the first picture.

A block's weights are inputs of its graph, so all blocks of a kind share it: the 57 blocks of
FLUX.1 are of two kinds. Each kind needs a graph for every shape:

    graphs = kinds × (sizes, or 1 if there are many) × (1 row, more rows)

A single row has a graph of its own because the compiler takes sizes 0 and 1 for constants. Larger
numbers of rows share a graph whose batch dimension is symbolic. Image tokens are constants while
a run has few sizes, because that code is faster, and symbolic beyond.

`CompiledBlocks.warm` makes every graph and tries every number of rows. After that, a call that
would need another graph is an error (compiler.py).

Not covered: text encoders, and what comes before and after the blocks. vae/decode.py compiles the
VAE. Rounding differs from eager mode, because fused operations keep fp32 between them.

Legend: R rows of a transformer call, S text tokens, T image tokens, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch._dynamo import mark_dynamic

from batchgen.engine.compile.compiler import Compiler, Inputs, Region, describe_shapes
from batchgen.errors import JobError

# A diffusers block: (hidden_states=, encoder_hidden_states=, temb=, …) → tensors. A block that
# drops its text returns None for it.
Block = Callable[..., Any]
Outputs = tuple[Tensor | None, ...]
Size = TypeVar("Size")

# Beyond so many different sizes, sizes are symbolic.
STATIC_SIZES = 8
# The fewest rows of a graph with a symbolic batch.
MANY = 2


class CompiledBlocks:
    """A transformer's blocks as functions that are compiled while `warm` calls them.

    `blocks` take what the originals take: hidden_states [R, T, D], encoder_hidden_states
    [R, S, D], modulations [R, M], … They work in inference mode only. Their results are contiguous.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        compiler: Compiler,
        *,
        tokens: Collection[int],
        rows: int,
        static: int = STATIC_SIZES,
    ) -> None:
        """Plan the graphs.

        :param blocks: modules in their final state: quantized, with their attention. Unchanged.
        :param tokens: T of the planned sizes as they reach a block: this rank's share.
        :param rows: the most rows R of a call. All numbers from 1 on are planned.
        :param static: with more different T than this, T is symbolic.
        """
        self._tokens, self._rows = frozenset(tokens), rows
        self._static = len(self._tokens) <= static
        listed = ", ".join(map(str, sorted(self._tokens)))
        self._plan = f"Compiled are 1 to {rows} rows of {listed} image tokens."
        self._compiler = compiler
        self._region = Region(compiler, _call_block, self._mark, self._plan)
        self._kinds: dict[object, int] = {}
        # By kind: the block and the inputs of the last call with several rows in the warm-up.
        self._samples: dict[int, tuple[Block, Inputs]] = {}
        self._seen: set[int] = set()
        self.blocks: list[Block] = [
            functools.partial(self._call, block, self._kind(block)) for block in blocks
        ]

    @property
    def graphs(self) -> int:
        """How many graphs the plan has. One number of rows more may need one more of them."""
        sizes = len(self._tokens) if self._static else 1
        return len(set(self._kinds.values())) * sizes * min(MANY, self._rows)

    @torch.inference_mode()
    def warm(self, run: Callable[[Size, int], object], sizes: Iterable[Size]) -> None:
        """Make every graph of the plan.

        :param run: takes a size and a number of rows through all blocks once, in the dtype and on
            the device of the pictures.
        :param sizes: the planned ones, which together have all planned image tokens.
        :raises JobError: no size has some of the planned image tokens.
        """
        for size in sizes:
            # Most rows first: the compiler tunes a symbolic batch for the number it sees first.
            for rows in sorted({1, min(MANY, self._rows), self._rows}, reverse=True):
                run(size, rows)
            self._try_all_rows()
        if missing := sorted(self._tokens - self._seen):
            listed = ", ".join(map(str, missing))
            raise JobError(
                f"{listed} image tokens are planned, but no size of the warm-up has so many"
            )

    def _kind(self, block: Block) -> int:
        """A number shared by blocks of one class whose weights have equal names and types."""
        assert isinstance(block, torch.nn.Module), "the weights of a block tell its kind"
        weights = tuple(
            (name, weight.shape, weight.dtype, type(weight))
            for name, weight in block.named_parameters()
        )
        return self._kinds.setdefault((type(block), weights), len(self._kinds))

    def _call(self, block: Block, kind: int, **inputs: Any) -> Outputs:
        """The block's results, from the graph of its kind and of this shape.

        :raises JobError: the shape is not planned, or a graph is missing after the warm-up.
        """
        rows, tokens = inputs["hidden_states"].shape[:2]
        if tokens not in self._tokens or not 1 <= rows <= self._rows:
            raise JobError(
                f"{describe_shapes(inputs)}: {rows} rows of {tokens} image tokens are not planned. "
                f"{self._plan}"
            )
        if not self._compiler.sealed:
            self._seen.add(tokens)
            if rows >= MANY:
                self._samples[kind] = block, inputs
        key = kind, tokens if self._static else None, rows >= MANY
        outputs: Outputs = self._region(key, block, inputs)
        return outputs

    def _try_all_rows(self) -> None:
        """Call each graph of several rows with every planned number of rows.

        The compiler adds a graph where one does not serve all numbers: from some number of rows
        on, for example, indices need 64 bits. One block stands for its kind, so this takes a
        fraction of a step.
        """
        for kind, (block, inputs) in list(self._samples.items()):
            for rows in range(MANY, self._rows + 1):
                self._call(block, kind, **_first_row(inputs, rows))
        # They hold activations.
        self._samples.clear()

    def _mark(self, inputs: Inputs) -> None:
        """Say which dimensions are symbolic. If the compiler must make one constant, it raises."""
        if inputs["hidden_states"].shape[0] >= MANY:
            for tensor in _with_rows(inputs):
                mark_dynamic(tensor, 0)
        if not self._static:
            mark_dynamic(inputs["hidden_states"], 1)
            for table in _tables(inputs):
                mark_dynamic(table, table.ndim - 2)


def _tables(inputs: Inputs) -> tuple[Tensor, ...]:
    """Cosines and sines of positions: [S + T, ·], or [R, S + T, ·] where rows differ in them."""
    return tuple(inputs.get("image_rotary_emb") or ())


def _with_rows(inputs: Inputs) -> list[Tensor]:
    """The tensors that have a row for each picture."""
    tensors = [value for value in inputs.values() if isinstance(value, Tensor)]
    return [*tensors, *(table for table in _tables(inputs) if table.ndim == 3)]


def _first_row(inputs: Inputs, rows: int) -> Inputs:
    """The inputs, but for so many rows, each of which is the first one."""
    varied = {id(tensor) for tensor in _with_rows(inputs)}

    def repeat(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(repeat(each) for each in value)
        return value[:1].expand(rows, *value.shape[1:]) if id(value) in varied else value

    return {name: repeat(value) for name, value in inputs.items()}


def _call_block(block: Block, inputs: Inputs) -> Outputs:
    """The function that is compiled: a block, and its results in tensors of their own.

    A FLUX single block returns two views of one long tensor. The next block would see strides that
    the first one did not, and need another graph. The copy costs nothing, because the compiler
    lets the last operation write there.
    """
    return tuple(
        None if output is None else output.clone(memory_format=torch.contiguous_format)
        for output in block(**inputs)
    )
