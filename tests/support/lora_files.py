"""LoRA files in the spellings of many tools, with random matrices for every linear of a model."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

RANK = 2
PEFT = "lora_A.weight", "lora_B.weight"
KOHYA = "lora_down.weight", "lora_up.weight"

Shapes = Mapping[str, tuple[int, int]]


def flux_originals(
    width: int, *, doubles: int, singles: int, text: int, pooled: int
) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear of FLUX.1, by Black Forest Labs' names."""
    shapes = {"img_in": (width, 64), "txt_in": (width, text)}
    for name, inputs in (("time_in", 256), ("guidance_in", 256), ("vector_in", pooled)):
        shapes |= {f"{name}.in_layer": (width, inputs), f"{name}.out_layer": (width, width)}
    for block in range(doubles):
        for stream in ("img", "txt"):
            name = f"double_blocks.{block}.{stream}"
            shapes[f"{name}_mod.lin"] = 6 * width, width
            shapes[f"{name}_attn.qkv"] = 3 * width, width
            shapes[f"{name}_attn.proj"] = width, width
            shapes[f"{name}_mlp.0"] = 4 * width, width
            shapes[f"{name}_mlp.2"] = width, 4 * width
    for block in range(singles):
        name = f"single_blocks.{block}"
        shapes[f"{name}.linear1"] = 7 * width, width
        shapes[f"{name}.linear2"] = width, 5 * width
        shapes[f"{name}.modulation.lin"] = 3 * width, width
    shapes["final_layer.adaLN_modulation.1"] = 2 * width, width
    return shapes | {"final_layer.linear": (64, width)}


def chroma_widths(doubles: int = 2, singles: int = 2, layers: int = 2) -> dict[str, int]:
    """Outputs, in widths of a token, of every linear of Chroma, by its authors' names."""
    named = dict.fromkeys(("img_in", "txt_in"), 1)
    named |= dict.fromkeys((f"distilled_guidance_layer.{n}_proj" for n in ("in", "out")), 1)
    for layer in range(layers):
        name = f"distilled_guidance_layer.layers.{layer}"
        named |= {f"{name}.in_layer": 1, f"{name}.out_layer": 1}
    for block in range(doubles):
        for stream in ("img", "txt"):
            name = f"double_blocks.{block}.{stream}"
            named |= {f"{name}_attn.qkv": 3, f"{name}_attn.proj": 1}
            named |= {f"{name}_mlp.0": 4, f"{name}_mlp.2": 1}
    for block in range(singles):
        named |= {f"single_blocks.{block}.linear1": 7, f"single_blocks.{block}.linear2": 1}
    return named | {"final_layer.linear": 1}


def sd3_originals(
    width: int, *, blocks: int, dual: int, text: int, pooled: int
) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of every linear of Stable Diffusion 3.5 medium, by Stability's names."""
    shapes = {"context_embedder": (width, text)}
    for name, inputs in (("t_embedder", 256), ("y_embedder", pooled)):
        shapes |= {f"{name}.mlp.0": (width, inputs), f"{name}.mlp.2": (width, width)}
    for block in range(blocks):
        last = block == blocks - 1
        for stream in ("x_block", "context_block"):
            name, more = f"joint_blocks.{block}.{stream}", stream == "x_block" and block < dual
            ends = last and stream == "context_block"
            shapes[f"{name}.adaLN_modulation.1"] = (2 if ends else 9 if more else 6) * width, width
            shapes[f"{name}.attn.qkv"] = 3 * width, width
            if more:
                shapes[f"{name}.attn2.qkv"] = 3 * width, width
                shapes[f"{name}.attn2.proj"] = width, width
            if not ends:
                shapes[f"{name}.attn.proj"] = width, width
                shapes[f"{name}.mlp.fc1"] = 4 * width, width
                shapes[f"{name}.mlp.fc2"] = width, 4 * width
    shapes["final_layer.adaLN_modulation.1"] = 2 * width, width
    return shapes | {"final_layer.linear": (64, width)}


def chroma_originals(
    width: int, *, doubles: int, singles: int, text: int
) -> dict[str, tuple[int, int]]:
    """The same of Chroma, but for its approximator: FLUX.1's without what modulates."""
    flux = flux_originals(width, doubles=doubles, singles=singles, text=text, pooled=width)
    modulating = "_mod.", "modulation.", "time_in", "guidance_in", "vector_in"
    return {name: shape for name, shape in flux.items() if not any(m in name for m in modulating)}


def flux2_originals(
    width: int, *, doubles: int, singles: int, text: int
) -> dict[str, tuple[int, int]]:
    """The same of FLUX.2, whose MLPs are gated and three times as wide; without the final norm."""
    inner = 3 * width
    shapes = {"img_in": (width, 64), "txt_in": (width, text), "final_layer.linear": (64, width)}
    shapes |= {"time_in.in_layer": (width, 256), "time_in.out_layer": (width, width)}
    for block in range(doubles):
        for stream in ("img", "txt"):
            name = f"double_blocks.{block}.{stream}"
            shapes[f"{name}_attn.qkv"] = 3 * width, width
            shapes[f"{name}_attn.proj"] = width, width
            shapes[f"{name}_mlp.0"] = 2 * inner, width
            shapes[f"{name}_mlp.2"] = width, inner
    for block in range(singles):
        shapes[f"single_blocks.{block}.linear1"] = 3 * width + 2 * inner, width
        shapes[f"single_blocks.{block}.linear2"] = width, width + inner
    return shapes


def z_image_originals(width: int, *, layers: int, refiners: int) -> dict[str, tuple[int, int]]:
    """The same of the blocks of Z-Image, and of what stands before and after them."""
    inner = int(width / 3 * 8)
    shapes = {"x_embedder": (width, 16), "final_layer.linear": (16, width)}
    shapes["final_layer.adaLN_modulation.1"] = width, width
    counts = {"layers": layers, "noise_refiner": refiners, "context_refiner": refiners}
    for block in (f"{kind}.{number}" for kind, count in counts.items() for number in range(count)):
        shapes[f"{block}.attention.qkv"] = 3 * width, width
        shapes[f"{block}.attention.out"] = width, width
        shapes[f"{block}.feed_forward.w1"] = inner, width
        shapes[f"{block}.feed_forward.w2"] = width, inner
        shapes[f"{block}.feed_forward.w3"] = inner, width
    return shapes


def random_matrices(shapes: Shapes, rank: int = RANK) -> dict[str, tuple[Tensor, Tensor]]:
    """B [out, rank] and A [rank, in] for each linear."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: (
            torch.randn(outputs, rank, generator=generator),
            torch.randn(rank, inputs, generator=generator),
        )
        for name, (outputs, inputs) in shapes.items()
    }


def spell(
    matrices: Mapping[str, tuple[Tensor, Tensor]], prefix: str, parts: tuple[str, str]
) -> dict[str, Tensor]:
    """The tensors of a LoRA file. Prefixes that end in `_` are kohya's, who writes no points."""
    return dict(_spelled(matrices, prefix, parts))


def _spelled(
    matrices: Mapping[str, tuple[Tensor, Tensor]], prefix: str, parts: tuple[str, str]
) -> Iterator[tuple[str, Tensor]]:
    down, up = parts
    for name, (b, a) in matrices.items():
        module = prefix + (name.replace(".", "_") if prefix.endswith("_") else name)
        yield f"{module}.{down}", a
        yield f"{module}.{up}", b
