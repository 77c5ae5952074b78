"""Tensors that FLUX.1, Chroma and Stable Diffusion 3 share: conditions and blocks."""

from __future__ import annotations

from batchgen.model.components.tensors import Tensors, linear

# Values of a time or guidance before it is embedded.
_SINUSOIDS = 256


def embedded_conditions(width: int, pooled: int, *, guidance: bool) -> Tensors:
    """Embedded time, guidance and pooled text."""
    inputs = {"timestep_embedder": _SINUSOIDS, "text_embedder": pooled}
    if guidance:
        inputs["guidance_embedder"] = _SINUSOIDS
    for name, into in inputs.items():
        yield from linear(f"time_text_embed.{name}.linear_1", width, into)
        yield from linear(f"time_text_embed.{name}.linear_2", width, width)


def joint_block(
    width: int,
    head: int,
    *,
    norms: bool,
    modulated: bool = True,
    dual: bool = False,
    last: bool = False,
) -> Tensors:
    """A block of image and text tokens.

    :param norms: whether queries and keys are normalised.
    :param modulated: whether the block computes its modulations; Chroma's are computed outside.
    :param dual: whether image tokens attend among themselves too.
    :param last: of Stable Diffusion 3: its text goes no further.
    """
    if modulated:
        yield from linear("norm1.linear", (9 if dual else 6) * width, width)
        yield from linear("norm1_context.linear", (2 if last else 6) * width, width)
    yield from attention_projections("attn", width, head, norms=norms)
    yield from linear("attn.to_out.0", width, width)
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", *(() if last else ("to_add_out",))):
        yield from linear(f"attn.{name}", width, width)
    for name in ("norm_added_q", "norm_added_k") if norms else ():
        yield f"attn.{name}.weight", (head,)
    if dual:
        yield from attention_projections("attn2", width, head, norms=norms)
        yield from linear("attn2.to_out.0", width, width)
    for name in ("ff",) if last else ("ff", "ff_context"):
        yield from linear(f"{name}.net.0.proj", 4 * width, width)
        yield from linear(f"{name}.net.2", width, 4 * width)


def single_block(width: int, head: int, *, modulated: bool = True) -> Tensors:
    """A block of FLUX.1 or Chroma with one stream of tokens.

    :param modulated: as in `joint_block`.
    """
    if modulated:
        yield from linear("norm.linear", 3 * width, width)
    yield from attention_projections("attn", width, head, norms=True)
    yield from linear("proj_mlp", 4 * width, width)
    yield from linear("proj_out", width, 5 * width)


def attention_projections(name: str, width: int, head: int, *, norms: bool) -> Tensors:
    """Linears of q, k and v, and the norms of q and k."""
    for part in ("to_q", "to_k", "to_v"):
        yield from linear(f"{name}.{part}", width, width)
    for part in ("norm_q", "norm_k") if norms else ():
        yield f"{name}.{part}.weight", (head,)
