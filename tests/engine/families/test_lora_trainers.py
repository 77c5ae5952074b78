"""LoRA files with the names that each model's common trainers write fuse to the meant weights.

What a name means is asked of diffusers, whose converters of LoRA files and checkpoints are
independent of batchgen's table; where diffusers has none, trainers write diffusers' own names.
Tolerance: stacked products and the products of their rows are rounded apart in fp32.
"""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from diffusers.loaders import lora_conversion_utils as converters
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers as convert_chroma,
)
from diffusers.loaders.single_file_utils import (
    convert_z_image_transformer_checkpoint_to_diffusers as convert_z_image,
)
from safetensors.torch import save_file
from torch import Tensor, nn

from batchgen.engine.families.lora import fuse_lora
from tests.support.lora_files import (
    KOHYA,
    PEFT,
    chroma_originals,
    flux2_originals,
    random_matrices,
    spell,
    z_image_originals,
)
from tests.support.small_transformers import MODELS, linears_of, shapes_of

RANK, ALPHA = 2, 3.0
DIFFSYNTH = "lora_A.default.weight", "lora_B.default.weight"
# Tools that write diffusers' names: prefix, the parts of a module, whether there is an alpha.
TRAINERS = {
    "diffusers": ("transformer.", PEFT, False),
    "peft": ("base_model.model.", PEFT, False),
    "ai-toolkit": ("diffusion_model.", PEFT, False),
    "musubi-tuner": ("lora_unet_", KOHYA, True),
    "OneTrainer": ("lora_transformer_", KOHYA, True),
    "OneTrainer, since 2026": ("transformer.", KOHYA, True),
    "LyCORIS": ("lycoris_", KOHYA, True),
    "Lightning": ("", KOHYA, True),
    "DiffSynth-Studio": ("", DIFFSYNTH, False),
}
# And those that write the authors' names.
AUTHORS = {
    "ai-toolkit": ("diffusion_model.", PEFT, False),
    "ComfyUI": ("diffusion_model.", KOHYA, True),
    "sd-scripts, musubi-tuner": ("lora_unet_", KOHYA, True),
}
ORIGINALS = {
    "FLUX.2": flux2_originals(32, doubles=2, singles=2, text=24),
    "Chroma": chroma_originals(32, doubles=2, singles=2, text=24),
    "Z-Image": z_image_originals(32, layers=2, refiners=1),
}


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {name: make() for name, make in MODELS.items()}


def write(
    path: Path, shapes: Mapping[str, tuple[int, int]], spelling: tuple[str, tuple[str, str], bool]
) -> dict[str, Tensor]:
    """A seeded LoRA file in a spelling, and its content."""
    prefix, parts, with_alpha = spelling
    content = spell(random_matrices(shapes, RANK), prefix, parts)
    if with_alpha:
        modules = {key.removesuffix(f".{parts[0]}") for key in content if key.endswith(parts[0])}
        content |= {f"{module}.alpha": torch.tensor(ALPHA) for module in modules}
    save_file(content, path)
    return content


def changes(model: nn.Module, path: Path, scale: float = 1.0) -> dict[str, Tensor]:
    """What fusing a file adds to each linear that it changes."""
    fused = copy.deepcopy(model)
    fuse_lora({"transformer": fused}, path, scale)
    found = {
        name: fused.get_submodule(name).weight - linear.weight
        for name, linear in linears_of(model).items()
    }
    return {name: change for name, change in found.items() if change.any()}


def assert_equal(ours: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert ours.keys() == expected.keys()
    for name, change in ours.items():
        torch.testing.assert_close(change, expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("trainer", TRAINERS)
@pytest.mark.parametrize("kind", MODELS)
def test_diffusers_names_of_every_trainer_fuse_to_the_same_weights(
    models: dict[str, nn.Module], tmp_path: Path, kind: str, trainer: str
) -> None:
    shapes = shapes_of(models[kind])
    write(tmp_path / "lora.safetensors", shapes, TRAINERS[trainer])
    strength = ALPHA / RANK if TRAINERS[trainer][2] else 1.0
    expected = {name: strength * b @ a for name, (b, a) in random_matrices(shapes, RANK).items()}
    assert_equal(changes(models[kind], tmp_path / "lora.safetensors"), expected)


def products(content: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """B·A of each linear in a file of diffusers' spelling, alphas multiplied in."""
    modules = {key.removesuffix(f".{PEFT[0]}") for key in content if key.endswith(PEFT[0])}
    return {
        module.removeprefix("transformer."): content[f"{module}.{PEFT[1]}"]
        @ content[f"{module}.{PEFT[0]}"]
        for module in modules
    }


def by_checkpoint(
    convert: Callable[..., dict[str, Tensor]], extra: Mapping[str, Tensor], prefix: str
) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Take the products of a LoRA for a checkpoint's weights, which become diffusers' weights."""

    def converted(content: dict[str, Tensor]) -> dict[str, Tensor]:
        found = {}
        for key in content:
            module, _, part = key.partition(".lora_")
            if part in ("A.weight", "down.weight"):
                up = content[key.replace("lora_A", "lora_B").replace("lora_down", "lora_up")]
                alpha = content.get(f"{module}.alpha", torch.tensor(float(RANK)))
                found[module.removeprefix(prefix)] = alpha / RANK * (up @ content[key])
        named = {f"{name}.weight": value for name, value in found.items()}
        named |= {f"{name}.bias": value[:, 0] for name, value in found.items()}
        weights = convert(named | dict(extra))
        return {
            name.removesuffix(".weight"): value
            for name, value in weights.items()
            if name.endswith(".weight") and value.ndim == 2 and value.any()
        }

    return converted


def chroma_rest(width: int) -> dict[str, Tensor]:
    """What a checkpoint of Chroma holds beside the linears that trainers change."""
    names = [
        "in_proj",
        "out_proj",
        *(f"layers.{n}.{e}_layer" for n in (0, 1) for e in ("in", "out")),
    ]
    linears = [f"distilled_guidance_layer.{name}" for name in names]
    rest = {f"{name}.{part}": torch.zeros(1) for name in linears for part in ("weight", "bias")}
    rest |= {f"distilled_guidance_layer.norms.{n}.scale": torch.zeros(1) for n in (0, 1)}
    for number in range(2):
        for stream in ("img", "txt"):
            for each in ("query", "key"):
                key = f"double_blocks.{number}.{stream}_attn.norm.{each}_norm.scale"
                rest[key] = torch.zeros(width)
        for each in ("query", "key"):
            rest[f"single_blocks.{number}.norm.{each}_norm.scale"] = torch.zeros(width)
    return rest


DIFFUSERS_SAYS: dict[tuple[str, str], Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {
    ("FLUX.2", "ai-toolkit"): lambda content: products(
        converters._convert_non_diffusers_flux2_lora_to_diffusers(content)
    ),
    ("FLUX.2", "sd-scripts, musubi-tuner"): lambda content: products(
        converters._convert_kohya_flux2_lora_to_diffusers(content)
    ),
    ("Z-Image", "ai-toolkit"): by_checkpoint(convert_z_image, {}, "diffusion_model."),
    ("Z-Image", "ComfyUI"): by_checkpoint(convert_z_image, {}, "diffusion_model."),
}


@pytest.mark.parametrize(("kind", "trainer"), DIFFUSERS_SAYS)
def test_the_authors_names_mean_what_diffusers_makes_of_them(
    models: dict[str, nn.Module], tmp_path: Path, kind: str, trainer: str
) -> None:
    path = tmp_path / "lora.safetensors"
    content = write(path, ORIGINALS[kind], AUTHORS[trainer])
    assert_equal(changes(models[kind], path), DIFFUSERS_SAYS[kind, trainer](content))


@pytest.mark.parametrize("trainer", AUTHORS)
def test_chromas_authors_names_mean_what_diffusers_makes_of_its_checkpoint(
    models: dict[str, nn.Module], tmp_path: Path, trainer: str
) -> None:
    """All spellings of one LoRA fuse to the same weights; diffusers' rows tell which."""
    shapes, path = ORIGINALS["Chroma"], tmp_path / "lora.safetensors"
    content = write(path, shapes, AUTHORS["ComfyUI"])
    expected = by_checkpoint(narrow_chroma, chroma_rest(16), "diffusion_model.")(content)
    write(path, shapes, AUTHORS[trainer])
    strength = 1.0 if AUTHORS[trainer][2] else RANK / ALPHA
    assert_equal(
        changes(models["Chroma"], path),
        {name: strength * change for name, change in expected.items()},
    )


def narrow_chroma(checkpoint: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' converter knows one width; its cuts of `linear1` are made here for another."""
    singles = {key: checkpoint.pop(key) for key in list(checkpoint) if ".linear1." in key}
    for key in singles:
        checkpoint[key] = torch.zeros(3 * 3072 + 4 * 3072, *singles[key].shape[1:])
    converted = convert_chroma(checkpoint)
    for key, value in singles.items():
        _, number, _, part = key.split(".")
        block = f"single_transformer_blocks.{number}"
        rows = value.split([32, 32, 32, 128])
        parts = (*(f"attn.to_{each}" for each in "qkv"), "proj_mlp")
        converted |= {f"{block}.{n}.{part}": r for n, r in zip(parts, rows, strict=True)}
    return converted
