"""A tensor on cuda:0, whose numbers are a CPU tensor."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._higher_order_ops.out_dtype import out_dtype, out_dtype_dense
from torch._library.custom_ops import OPDEFS
from torch.utils._python_dispatch import TorchDispatchMode

from tests.cuda.streams import Memory, current, host, report

CUDA, CPU = torch.device("cuda:0"), torch.device("cpu")
# Where the numbers are: CPU, or "meta" for a card that computes shapes and memory alone.
place = CPU
# Operations whose result the host reads.
_ANSWERS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}
# Computed whole, for what it is made of is chosen by the device.
_COMPOSED = "scaled_dot_product_attention"
has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
_memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()
# Pinned storages, which live as long as the process.
_pinned: dict[int, Any] = {}


class CudaTensor(Tensor):
    """`numbers`, on cuda:0."""

    numbers: Tensor
    memory: Memory

    @staticmethod
    def __new__(cls, numbers: Tensor) -> CudaTensor:
        made: CudaTensor = Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=numbers.stride(),
            storage_offset=numbers.storage_offset(),
            dtype=numbers.dtype,
            device=CUDA,
        )
        made.numbers, made.memory = numbers, _memory(numbers)
        return made

    def __init__(self, numbers: Tensor) -> None:
        """As `__new__`."""

    def __repr__(self, **_: Any) -> str:
        return f"CudaTensor({self.numbers})"

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


class Emulation(TorchDispatchMode):
    """Within it, tensors made on cuda:0 are `CudaTensor`s, and pinned memory is known."""

    def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        return compute(func, args, kwargs or {})


@out_dtype.py_impl(Emulation)
def _with_type(_: Emulation, *args: Any) -> Any:
    """An int8 product goes to the card's kernel. Refused, torchao would compute it in fp32."""
    return out_dtype_dense(*args)


class _Operation(NamedTuple):
    """What is asked of an operation each time it is computed."""

    name: str
    # Made of other operations.
    composed: bool
    # Its result is memory that it was given.
    view: bool
    # By name: whether it is written.
    arguments: dict[str, bool]


@cache
def _known(func: Any) -> _Operation:
    name, schema = func._schema.name.removeprefix("aten::"), func._schema
    composed = name != _COMPOSED and has_kernel(func.name(), "CompositeImplicitAutograd")
    view = any(made.alias_info and not made.alias_info.is_write for made in schema.returns)
    arguments = {
        argument.name: argument.alias_info is not None and argument.alias_info.is_write
        for argument in schema.arguments
    }
    return _Operation(name, composed, view, arguments)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """One operation of PyTorch, by the rules of a card if one takes part."""
    operation = _known(func)
    name = operation.name
    if func.namespace == "batchgen":
        # The program's own operator: what it does keeps the rules or not.
        with Emulation():
            return OPDEFS[name]._init_fn(*args, **kwargs)
    if operation.composed:
        # Within an operator these come whole: `item`, which waits, or `to`, which copies.
        with Emulation():
            return func.decompose(*args, **kwargs)
    tensors: list[Tensor] = []
    _collect((args, kwargs), tensors)
    there = [isinstance(tensor, CudaTensor) for tensor in tensors]
    target = kwargs.get("device")
    to_card = any(there) if target is None else torch.device(target).type == "cuda"
    if (
        name in ("_to_copy", "copy_")
        and len({to_card if name[0] == "_" else there[0], there[-1]}) > 1
    ):
        return _copy(func, args, kwargs, name)
    if not any(there) and not to_card:
        return _on_host(func, args, kwargs, name)
    if any(there):
        _check_devices(name, tensors)
    current().queue()
    if not operation.view:
        _touch(operation, args, kwargs)
    if name in _ANSWERS or (name.startswith("index") and _by_mask(args)):
        wait_for_device(f"the answer of {name}")
    if name == "_local_scalar_dense" and args[0].numbers.is_meta:
        return _made_up(args[0]).item()
    return _run(_KERNELS.get(name, func), args, kwargs)


def _collect(value: Any, into: list[Tensor]) -> None:
    """The tensors of an operation's arguments."""
    if isinstance(value, Tensor):
        into.append(value)
    elif isinstance(value, (tuple, list)):
        for part in value:
            _collect(part, into)
    elif isinstance(value, dict):
        _collect(list(value.values()), into)


def _change(value: Any, kind: type[Tensor], change: Callable[[Any], Any]) -> Any:
    """An operation's arguments or results with other tensors."""
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, (tuple, list)):
        return type(value)([_change(part, kind, change) for part in value])
    if isinstance(value, dict):
        return {name: _change(part, kind, change) for name, part in value.items()}
    return value


def _attend(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Any:
    """The CPU's kernel, and in the places of a card's further outputs something."""
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    return out, lse, lse, lse, 0, 0, lse, lse, lse


def _multiply(x: Tensor, y: Tensor) -> Tensor:
    """The int8 product, exact: the CPU's own may saturate."""
    return (x.double() @ y.double()).int()


# A card's kernels that the CPU has not, or not so.
_KERNELS: dict[str, Callable[..., Any]] = {
    "_scaled_dot_product_flash_attention": _attend,
    "_scaled_dot_product_cudnn_attention": _attend,
    "_int_mm": _multiply,
}


def _run(func: Any, args: Any, kwargs: Any) -> Any:
    """Compute with the numbers. What is new is on the card, what was changed stays itself."""
    wrapped: dict[int, CudaTensor] = {}

    def unwrap(tensor: CudaTensor) -> Tensor:
        wrapped[id(tensor.numbers)] = tensor
        return tensor.numbers

    if kwargs.get("device") is not None:
        kwargs = kwargs | {"device": place}
    plain_args, plain = _change((args, kwargs), CudaTensor, unwrap)

    def wrap(numbers: Tensor) -> CudaTensor:
        known = wrapped.get(id(numbers))
        return CudaTensor(numbers) if known is None else known

    return _change(func(*plain_args, **plain), Tensor, wrap)


def _on_host(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """No card takes part; but the host's memory may be pinned for one."""
    if name != "_pin_memory" and not kwargs.get("pin_memory"):
        return func(*args, **kwargs)
    out = (
        args[0].clone() if name == "_pin_memory" else func(*args, **kwargs | {"pin_memory": False})
    )
    storage = out.untyped_storage()
    _pinned[storage._cdata] = storage
    return out


def _copy(func: Any, args: Any, kwargs: Any, name: str) -> Any:
    """Between host and card. Only a copy from pinned memory does not keep the host waiting."""
    source = args[0] if name == "_to_copy" else args[1]
    blocking = not (kwargs.get("non_blocking") or (name == "copy_" and args[2:3] == (True,)))
    current().queue()
    if isinstance(source, CudaTensor):
        source.memory.read(name)
        if not blocking:
            report.fault("a copy to the host that does not wait, which is not emulated,")
        wait_for_device("a copy to the host")
        if source.numbers.is_meta:
            return _made_up(source)
        plain = _change(args, CudaTensor, lambda tensor: tensor.numbers)
        return func(*plain, **kwargs)
    pinned = source.untyped_storage()._cdata in _pinned
    if source.numel() and (blocking or not pinned):
        wait_for_device("a copy from the host")
    if name == "copy_":
        args[0].memory.write(name)
        args[0].numbers.copy_(source)
        return args[0]
    return CudaTensor(func(*args, **kwargs | {"device": place}))


def _made_up(source: Tensor) -> Tensor:
    """What a card without numbers answers: yes; noise levels, which fall."""
    if source.dtype == torch.float32 and source.dim() == 1:
        return torch.linspace(1, 0, len(source))
    return torch.ones(source.shape, dtype=source.dtype)


def _check_devices(name: str, tensors: list[Tensor]) -> None:
    """Numbers of the host may be scalars, or an index, which is copied."""
    for tensor in tensors:
        if isinstance(tensor, CudaTensor) or not tensor.dim():
            continue
        if not name.startswith("index") or tensor.dtype.is_floating_point:
            report.fault(f"{name} of tensors on cuda:0 and on the CPU")
            raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        wait_for_device("an index from the host")


def _touch(operation: _Operation, args: Any, kwargs: Any) -> None:
    """Tell each tensor's memory that it is read or written; a view does neither."""
    for written, value in zip(operation.arguments.values(), args, strict=False):
        _touch_all(value, operation.name, written=written)
    for name, value in kwargs.items():
        _touch_all(value, operation.name, written=operation.arguments[name])


def _touch_all(value: Any, operation: str, *, written: bool) -> None:
    if isinstance(value, CudaTensor):
        (value.memory.write if written else value.memory.read)(operation)
    elif isinstance(value, (tuple, list)):
        for part in value:
            _touch_all(part, operation, written=written)


def _by_mask(args: Any) -> bool:
    """Whether an index is a mask, whose result has a size that the host must learn."""
    indices: list[Tensor] = []
    _collect(args[1:2], indices)
    return any(index.dtype in (torch.bool, torch.uint8) for index in indices)


def wait_for_device(what: str) -> None:
    report.wait(what)
    host.update(current().clock() - host)


def _memory(numbers: Tensor) -> Memory:
    """The memory of a storage, which lives as long as a tensor that uses it."""
    storage = numbers.untyped_storage()
    found = _memories.get(storage._cdata)
    if found is None:
        found = _memories[storage._cdata] = Memory(storage)
    return found
