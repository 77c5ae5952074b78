"""Regional compilation: the transformer's blocks, as few graphs as their shapes need, each compiled before the first picture.

57 blocks of FLUX.1 are of two kinds. A block's weights are inputs of its graph, so all blocks of a kind share it: what takes time is
kinds × shapes. Of the shapes, a single row is a graph of its own (the compiler takes sizes 0 and 1 for constants); all larger numbers
of rows share one, whose batch dimension is symbolic. Image tokens are constants while a run has few sizes, which gives the faster
code, and symbolic beyond.

    graphs = kinds × (sizes, or 1 if they are many) × (1 row, more rows)

Every graph is made by `warm`, which also tries all numbers of rows. After that a shape that was not planned is refused, and so is
whatever else would need a new graph (another dtype, another gradient mode): nothing runs eagerly, or compiles for a minute in the
middle of a run, unseen. That rests on one thing: whatever the compiler is asked for comes by `_Regions.compile`, which counts, and
refuses once it is sealed. No global setting of PyTorch is touched.

Not covered: text encoders, VAE, the embedding before the blocks and the head after them. Rounding differs from eager mode's, because
fused operations keep fp32 between them.

Legend: R rows of a transformer call, S text tokens, T image tokens, D width.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor
from torch._dynamo import mark_dynamic
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor import list_mode_options

from batchgen.errors import JobError

Mode = Literal["none", "default", "max-autotune-no-cudagraphs"]
Block = Callable[..., Any]  # a diffusers block: (hidden_states=, encoder_hidden_states=, temb=, …) → tensors, or None for one it drops
Outputs = tuple[Tensor | None, ...]
Function = Callable[[Block, dict[str, Any]], Outputs]
Size = TypeVar("Size")

STATIC_SIZES = 8  # with more different sizes than this, image tokens are symbolic
_MANY = 2  # the fewest rows of a graph with a symbolic batch
_ROWS = ("hidden_states", "encoder_hidden_states", "temb")  # the inputs that have a row for each picture


@dataclass(frozen=True, slots=True)
class Compilation:
    """What compiling came to, for the records."""

    graphs: int = 0  # made in this process, from inductor's cache or anew
    cached: int = 0  # of them, found in the cache
    breaks: int = 0  # graph breaks: 0, for a break is an error
    recompilations: int = 0  # needed after the warm-up, and refused


class CompiledBlocks:
    """A transformer's blocks and how they were compiled."""

    def __init__(self, blocks: Sequence[Block], regions: _Regions | None) -> None:
        self.blocks: list[Block] = [_Compiled(block, regions) for block in blocks] if regions else list(blocks)
        self._regions = regions

    @property
    def compilation(self) -> Compilation:
        """Counts so far."""
        return self._regions.count() if self._regions else Compilation()

    @torch.inference_mode()
    def warm(self, run: Callable[[Size, int], object], sizes: Iterable[Size]) -> Compilation:
        """Make every graph of the plan, then refuse to make another. From then on the blocks work in inference mode only, as here.

        :param run: takes so many rows of a size through all blocks once, in the dtype and on the device of the pictures.
        :param sizes: the planned ones; together they have all the planned image tokens.
        :raises JobError: some planned image tokens were not among the sizes.
        """
        if self._regions is None:
            return Compilation()
        for size in sizes:
            # Most rows first: the compiler tunes a symbolic batch for the number it sees first.
            for rows in sorted({1, min(_MANY, self._regions.rows), self._regions.rows}, reverse=True):
                run(size, rows)
            self._regions.try_all_rows()
        self._regions.seal()
        return self.compilation


def compile_blocks(blocks: Sequence[Block], mode: Mode, tokens: Collection[int], rows: int, static: int = STATIC_SIZES) -> CompiledBlocks:
    """Blocks that compile while `warm` calls them, and never afterwards.

    "default" takes what inductor chooses without measuring, so that every worker's code is the same. "max-autotune-no-cudagraphs"
    measures kernels on the device, and two workers may measure differently: its code should come from one cache (`artifacts.py`).

    :param blocks: modules, final: weights quantized, attention put in. They are not changed.
    :param mode: "none" hands the very same blocks back.
    :param tokens: image tokens T of the planned sizes as they reach a block, which is a rank's share.
    :param rows: the most rows R of a call; all numbers from 1 on are planned.
    :param static: with more different T than this, T is symbolic.
    """
    if mode == "none":
        return CompiledBlocks(blocks, None)
    return CompiledBlocks(blocks, _Regions(mode, frozenset(tokens), rows, static=len(set(tokens)) <= static))


class _Compiled:
    """A block whose calls go to the graph that its kind and their shape share."""

    def __init__(self, block: Block, regions: _Regions) -> None:
        self.block, self._regions = block, regions
        self.kind = regions.kind(block)

    def __call__(self, **inputs: Any) -> Outputs:
        """See the block; `hidden_states` [R, T, D], `encoder_hidden_states` [R, S, D]. Results are contiguous."""
        return self._regions.call(self, inputs)


class _Regions:
    """Compiled functions by kind and shape; counts what the compiler makes and, once sealed, keeps it from making more."""

    def __init__(self, mode: Mode, tokens: frozenset[int], rows: int, *, static: bool) -> None:
        self.rows = rows
        self._tokens, self._static = tokens, static
        # What is chosen by measuring differs from worker to worker, and with it the rounding; tuned kernels are chosen so on purpose.
        self._options: dict[str, Any] = {"deterministic": True} if mode == "default" else dict(list_mode_options(mode))
        self._kinds: dict[object, int] = {}
        self._table: dict[tuple[int, int | None, bool], Function] = {}  # kind, T or None, several rows
        self._samples: dict[int, tuple[_Compiled, dict[str, Any]]] = {}  # by kind: how it was called last with several rows
        self._graphs = self._cached = self._breaks = self._refused = 0
        self._seen: set[int] = set()
        self._sealed = False

    def kind(self, block: Block) -> int:
        """A number that blocks share whose graphs are the same: those of one class, with weights of equal names, shapes and types."""
        assert isinstance(block, torch.nn.Module), "a block's weights tell its kind"
        weights = tuple((name, weight.shape, weight.dtype, type(weight)) for name, weight in block.named_parameters())
        return self._kinds.setdefault((type(block), weights), len(self._kinds))

    def call(self, compiled: _Compiled, inputs: dict[str, Any]) -> Outputs:
        """The block's results, from the graph for its kind and this shape.

        :raises JobError: the shape is not in the plan, or something else would need a graph that the warm-up has not made.
        """
        rows, tokens = inputs["hidden_states"].shape[:2]
        if tokens not in self._tokens or not 1 <= rows <= self.rows:
            raise JobError(f"{_shapes(inputs)}: {rows} rows of {tokens} image tokens are not in the plan. {self._plan()}")
        several = rows >= _MANY
        function = self._function(compiled.kind, tokens, several=several)
        inputs = {name: _plain(value) for name, value in inputs.items()}
        if self._sealed:
            return self._call_sealed(function, compiled.block, inputs)
        self._seen.add(tokens)
        if several:
            self._samples[compiled.kind] = compiled, inputs
        _mark(inputs, rows=several, tokens=not self._static)
        before = counters["graph_break"].total()
        outputs = function(compiled.block, inputs)
        self._breaks += counters["graph_break"].total() - before
        return outputs

    def _call_sealed(self, function: Function, block: Block, inputs: dict[str, Any]) -> Outputs:
        try:
            return function(block, inputs)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, JobError):
                raise
        raise JobError(
            f"{_shapes(inputs)}: a transformer block would have to be compiled again, in the middle of a run. {self._plan()} "
            "TORCH_LOGS=recompiles tells what differs; --set compile.mode=none goes without compiling."
        )

    def _plan(self) -> str:
        return f"Compiled are 1 to {self.rows} rows of {', '.join(map(str, sorted(self._tokens)))} image tokens."

    def _function(self, kind: int, tokens: int, *, several: bool) -> Function:
        key = kind, tokens if self._static else None, several
        if key not in self._table:
            # A code object of its own: PyTorch keeps graphs by code object, tries one after the other at every call, and allows eight.
            name = f"{_call_block.__name__}_{len(self._table)}"
            function = types.FunctionType(_call_block.__code__.replace(co_name=name), globals(), name)
            self._table[key] = torch.compile(function, fullgraph=True, dynamic=False, backend=self.compile)
        return self._table[key]

    def compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:  # code, of a type that is inductor's own
        """Inductor, counted; the backend of every region.

        :raises JobError: the warm-up is over.
        """
        from torch._inductor.compile_fx import compile_fx  # here: a second, and without compiling it is not needed

        if self._sealed:
            self._refused += 1
            raise JobError("sealed")
        before = _cache_hits()
        code = compile_fx(graph, inputs, config_patches=self._options)
        self._graphs += 1
        self._cached += _cache_hits() > before
        return code

    def try_all_rows(self) -> None:
        """Call each graph of several rows, for the size it was called with last, with every planned number of them.

        So the compiler adds what a graph is not good for: from some number of rows on, for example, indices need 64 bits. One block
        stands for its kind; this takes a fraction of a step.
        """
        for compiled, inputs in list(self._samples.values()):
            for rows in range(_MANY, self.rows + 1):
                repeated = {name: inputs[name][:1].expand(rows, *inputs[name].shape[1:]) for name in _ROWS}
                self.call(compiled, inputs | repeated)
        self._samples.clear()  # activations

    def seal(self) -> None:
        """From now on a missing graph is an error."""
        if missing := sorted(self._tokens - self._seen):
            raise JobError(f"{', '.join(map(str, missing))} image tokens are planned, but no size of the warm-up has so many")
        self._sealed = True

    def count(self) -> Compilation:
        """Counts so far."""
        return Compilation(self._graphs, self._cached, self._breaks, self._refused)


def _call_block(block: Block, inputs: dict[str, Any]) -> Outputs:
    """What is compiled: the block, its results in tensors of their own.

    A FLUX single block returns two views of one long tensor; the next block, seeing strides that the first did not, would need another
    graph. The copy costs nothing: the compiler lets the last operation write there.
    """
    return tuple(None if output is None else output.clone(memory_format=torch.contiguous_format) for output in block(**inputs))


def _plain(value: Any) -> Any:
    """Tensors as if they had just been made, for the compiler chooses graphs by what should not matter.

    Those are the strides, even of a dimension of size 1, where they mean nothing, and whether a tensor was made in inference mode.
    """
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    if not isinstance(value, Tensor):
        return value
    fresh = value.is_inference() and value.is_contiguous() and value.stride(0) == value.numel() // value.shape[0]
    return value if fresh else value.clone(memory_format=torch.contiguous_format)


def _mark(inputs: dict[str, Any], *, rows: bool, tokens: bool) -> None:
    """Say which dimensions are symbolic. A compiler that could only make constants of them raises."""
    for name in _ROWS if rows else ():
        mark_dynamic(inputs[name], 0)
    if tokens:
        mark_dynamic(inputs["hidden_states"], 1)
        for table in inputs.get("image_rotary_emb") or ():  # cos and sin, [S + T, ·]
            mark_dynamic(table, 0)


def _cache_hits() -> int:
    """Of either of the two caches that can spare inductor's work: of whole graphs with their wrappers, and of the kernels of one."""
    return counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"]


def _shapes(inputs: dict[str, Any]) -> str:
    return ", ".join(f"{name} {[*value.shape]} {value.dtype}" for name, value in inputs.items() if isinstance(value, Tensor))
