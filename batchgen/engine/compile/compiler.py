"""Functions compiled by shape: the warm-up makes every graph, and none is made afterwards.

    compiler = Compiler("default")
    region = Region(compiler, body, mark, plan)
    region(key, subject, inputs)        # body(subject, inputs) in the graph of this key
    compiler.seal(sha256)               # the warm-up is over: a missing graph is now an error

After the seal, every call that would need a new graph is refused: another dtype, another gradient
mode, a shape that was not tried. Nothing falls back to eager mode, and nothing compiles for a
minute in the middle of a run. This holds because PyTorch asks for every graph through
`Compiler.compile`, which counts, and refuses after the seal. No global setting is changed.
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
from torch._inductor import list_mode_options

from batchgen.engine.interface import Compilation
from batchgen.errors import JobError

Mode = Literal["default", "max-autotune-no-cudagraphs"]
Inputs = dict[str, Any]
Body = Callable[[Any, Inputs], Any]


class Compiler:
    """Inductor for one engine. It counts its graphs and, once sealed, makes no more."""

    def __init__(self, mode: Mode) -> None:
        """:param mode: of torch.compile.

        With "default", Inductor measures nothing, so every worker gets the same code.
        "max-autotune-no-cudagraphs" measures kernels on the device. Two workers may choose
        different kernels, and so round differently: let them share a compile cache.
        """
        self._options: dict[str, Any] = (
            {"deterministic": True} if mode == "default" else dict(list_mode_options(mode))
        )
        self.compilation = Compilation()
        self.sealed = False
        # Told the number of each graph, from 1, before it is made.
        self.tell: Callable[[int], None] = lambda _: None
        self._functions = 0

    def seal(self, code_sha256: str) -> None:
        """End the warm-up.

        :param code_sha256: names the code in the records.
        """
        self.sealed = True
        self._count(code_sha256=code_sha256)

    def function(self, body: Body) -> Body:
        """`body` as a function with graphs of its own. A graph break in it is an error.

        PyTorch keeps graphs by code object, tries them in turn at every call, and allows eight of
        them. A code object of its own keeps each function's list short.
        """
        self._functions += 1
        name = f"{body.__name__}_{self._functions}"
        own = types.FunctionType(body.__code__.replace(co_name=name), body.__globals__, name)
        compiled: Body = torch.compile(own, fullgraph=True, dynamic=False, backend=self.compile)
        return compiled

    def compile(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        """Compile one graph with Inductor: the backend of every function.

        :raises JobError: the warm-up is over.
        """
        # Imported here because it takes a second, which runs without compilation need not wait.
        from torch._inductor.compile_fx import compile_fx

        if self.sealed:
            self._count(recompilations=self.compilation.recompilations + 1)
            raise JobError("sealed")
        self.tell(self.compilation.graphs + 1)
        code = compile_fx(graph, inputs, config_patches=self._options)
        self._count(graphs=self.compilation.graphs + 1)
        return code

    def _count(self, **counts: Any) -> None:
        self.compilation = dataclasses.replace(self.compilation, **counts)


@dataclass
class Region:
    """A function `body(subject, inputs)`, compiled once for each key.

    The subject is a module. Its weights are inputs of the graph, so that modules can share one.
    """

    compiler: Compiler
    body: Body
    # Tells the compiler which dimensions of the inputs are symbolic.
    mark: Callable[[Inputs], None]
    # A sentence for messages: what is compiled.
    plan: str
    _functions: dict[Hashable, Body] = field(default_factory=dict)

    def __call__(self, key: Hashable, subject: Any, inputs: Inputs) -> Any:
        """The body's result.

        :param key: equal for all shapes that share a graph.
        :raises JobError: the warm-up is over, and this call needs a graph that it did not make.
        """
        if key not in self._functions:
            self._functions[key] = self.compiler.function(self.body)
        function = self._functions[key]
        inputs = {name: _normalize(value) for name, value in inputs.items()}
        if self.compiler.sealed:
            return self._call_sealed(function, subject, inputs)
        self.mark(inputs)
        return function(subject, inputs)

    def _call_sealed(self, function: Body, subject: Any, inputs: Inputs) -> Any:
        try:
            return function(subject, inputs)
        except BackendCompilerFailed as error:
            if not isinstance(error.inner_exception, JobError):
                raise
        raise JobError(
            f"{describe_shapes(inputs)}: {type(subject).__name__} would have to be compiled again, "
            f"in the middle of a run. {self.plan} TORCH_LOGS=recompiles tells what differs; "
            "--set compile.mode=none runs without compilation."
        )


def describe_shapes(inputs: Inputs) -> str:
    """The tensors among the inputs, for messages."""
    return ", ".join(
        f"{name} {[*value.shape]} {value.dtype}"
        for name, value in inputs.items()
        if isinstance(value, Tensor)
    )


def _normalize(value: Any) -> Any:
    """Tensors as if they had just been made in inference mode.

    PyTorch chooses graphs also by strides, even those of a dimension of size 1, where they mean
    nothing, and by whether a tensor was made in inference mode.
    """
    if isinstance(value, tuple):
        return tuple(_normalize(part) for part in value)
    if not isinstance(value, Tensor):
        return value
    row = value.numel() // value.shape[0]
    fresh = value.is_inference() and value.is_contiguous() and value.stride(0) == row
    return value if fresh else value.clone(memory_format=torch.contiguous_format)
