"""Functions compiled by shape: every graph is made in a warm-up, counted, and none is made afterwards.

    compiler = Compiler("default")
    region = Region(compiler, body, mark, plan)
    region(key, subject, inputs)        # body(subject, inputs) by the graph of this key, made now if it is the first call
    compiler.seal(sha256)               # the warm-up is over: from now on a missing graph is an error

After that, whatever would need a new graph is refused (another dtype, another gradient mode, a shape that was not tried): nothing runs
eagerly, or compiles for a minute in the middle of a run, unseen. That rests on one thing: whatever PyTorch's compiler is asked for comes
by `Compiler.compile`, which counts, and refuses once it is sealed. No global setting of PyTorch is touched.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor import list_mode_options

from batchgen.engine.interface import Compilation
from batchgen.errors import JobError

Mode = Literal["default", "max-autotune-no-cudagraphs"]
Inputs = dict[str, Any]
Body = Callable[[Any, Inputs], Any]


class Compiler:
    """Inductor for one engine: counts what it makes and, once sealed, makes no more."""

    def __init__(self, mode: Mode) -> None:
        """A mode of torch.compile.

        "default" takes what inductor chooses without measuring, so that every worker's code is the same. "max-autotune-no-cudagraphs"
        measures kernels on the device, and two workers may measure differently: its code should come from one cache (`artifacts.py`).
        """
        self.mode = mode
        # What is chosen by measuring differs from worker to worker, and with it the rounding; tuned kernels are chosen so on purpose.
        self._options: dict[str, Any] = (
            {"deterministic": True} if mode == "default" else dict(list_mode_options(mode))
        )
        self.compilation = Compilation()
        self.sealed = False
        self._names = 0

    def seal(self, code_sha256: str) -> None:
        """End the warm-up.

        :param code_sha256: names what was made, for the records.
        """
        self.sealed = True
        self._count(code_sha256=code_sha256)

    def function(self, body: Body) -> Body:
        """`body` as a function with graphs of its own, which are for inference mode, as all that is called here.

        PyTorch keeps graphs by code object, tries one after the other at every call, and allows eight of them.
        """
        self._names += 1
        name = f"{body.__name__}_{self._names}"
        own = types.FunctionType(body.__code__.replace(co_name=name), body.__globals__, name)
        compiled: Body = torch.compile(own, fullgraph=True, dynamic=False, backend=self.compile)
        return compiled

    def warm(self, function: Body, subject: Any, inputs: Inputs) -> Any:
        """Call it, with its graph made by that if it lacks one."""
        before = counters["graph_break"].total()
        outputs = function(subject, inputs)
        self._count(breaks=self.compilation.breaks + counters["graph_break"].total() - before)
        return outputs

    def compile(
        self, graph: torch.fx.GraphModule, inputs: list[Any]
    ) -> Any:  # code, of a type that is inductor's own
        """Inductor, counted; the backend of every function.

        :raises JobError: the warm-up is over.
        """
        from torch._inductor.compile_fx import (
            compile_fx,  # here: a second, and without compiling it is not needed
        )

        if self.sealed:
            self._count(recompilations=self.compilation.recompilations + 1)
            raise JobError("sealed")
        before = _cache_hits()
        code = compile_fx(graph, inputs, config_patches=self._options)
        found = int(_cache_hits() > before)
        self._count(graphs=self.compilation.graphs + 1, cached=self.compilation.cached + found)
        return code

    def _count(self, **counts: Any) -> None:
        self.compilation = dataclasses.replace(self.compilation, **counts)


@dataclass
class Region:
    """A function of a subject (a module; its weights are inputs of the graph) and inputs, compiled once a key."""

    compiler: Compiler
    body: Body
    mark: Callable[[Inputs], None]  # say which dimensions of the inputs are symbolic
    plan: str  # what it is compiled for, for messages
    _functions: dict[Hashable, Body] = field(default_factory=dict)

    def __call__(self, key: Hashable, subject: Any, inputs: Inputs) -> Any:
        """The body's result.

        :param key: equal for all shapes that share a graph.
        :raises JobError: the warm-up is over, and this would need a graph that was not made in it.
        """
        if key not in self._functions:
            self._functions[key] = self.compiler.function(self.body)
        function = self._functions[key]
        inputs = {name: _plain(value) for name, value in inputs.items()}
        if self.compiler.sealed:
            return self._sealed(function, subject, inputs)
        self.mark(inputs)
        return self.compiler.warm(function, subject, inputs)

    def _sealed(self, function: Body, subject: Any, inputs: Inputs) -> Any:
        try:
            return function(subject, inputs)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, JobError):
                raise
        raise JobError(
            f"{shapes(inputs)}: {type(subject).__name__} would have to be compiled again, in the middle of a run. {self.plan} "
            "TORCH_LOGS=recompiles tells what differs; --set compile.mode=none goes without compiling."
        )


def shapes(inputs: Inputs) -> str:
    """The tensors among them, for messages."""
    return ", ".join(
        f"{name} {[*value.shape]} {value.dtype}"
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    )


def _plain(value: Any) -> Any:
    """Tensors as if they had just been made, for the compiler chooses graphs by what should not matter.

    Those are the strides, even of a dimension of size 1, where they mean nothing, and whether a tensor was made in inference mode.
    """
    if isinstance(value, tuple):
        return tuple(_plain(part) for part in value)
    if not isinstance(value, Tensor):
        return value
    fresh = (
        value.is_inference()
        and value.is_contiguous()
        and value.stride(0) == value.numel() // value.shape[0]
    )
    return value if fresh else value.clone(memory_format=torch.contiguous_format)


def _cache_hits() -> int:
    """Of either of the two caches that can spare inductor's work: of whole graphs with their wrappers, and of the kernels of one."""
    return (
        counters["aot_autograd"]["autograd_cache_hit"] + counters["inductor"]["fxgraph_cache_hit"]
    )
