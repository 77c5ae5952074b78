"""The tensors of a component's state dict, name → shape, from its configuration and without torch.

`tests/model/test_expected.py` compares them with the modules that diffusers and transformers build.
Names are those of the modules, but CLIP's are without `text_model.`, which transformers puts before
them in some versions and classes and not in others.
"""

from __future__ import annotations

from collections.abc import Iterator

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]


def under(prefix: str, tensors: Tensors) -> Tensors:
    """The tensors of a part, under its name in the whole."""
    return ((f"{prefix}.{name}", shape) for name, shape in tensors)


def linear(name: str, out: int, into: int) -> Tensors:
    """A linear with a bias."""
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def matrix(name: str, out: int, into: int) -> Tensors:
    """A linear without a bias."""
    yield f"{name}.weight", (out, into)


def convolution(name: str, out: int, into: int, side: int) -> Tensors:
    """A convolution over side × side pixels."""
    yield f"{name}.weight", (out, into, side, side)
    yield f"{name}.bias", (out,)


def normalised(name: str, width: int) -> Tensors:
    """A norm with a bias."""
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
