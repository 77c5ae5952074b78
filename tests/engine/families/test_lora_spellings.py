"""One LoRA, written in the spelling of every tool, fuses to the same weights.

What a spelling means is asked of diffusers: its converters of LoRA files, and of checkpoints.
Tolerance: a stacked product and the products of its rows are rounded apart in fp32.
"""

import copy

import diffusers
import pytest
import torch
from diffusers.loaders import lora_conversion_utils as converters
from diffusers.loaders.single_file_utils import (
    convert_chroma_transformer_checkpoint_to_diffusers,
    convert_sd3_transformer_checkpoint_to_diffusers,
)
from safetensors.torch import save_file

from batchgen.engine.families.lora import fuse_lora
from batchgen.model import TINY
from batchgen.model.lora import linear_name, read_lora
from batchgen.model.lora.names import find_linears
from tests.support.lora_files import (
    KOHYA,
    PEFT,
    chroma_widths,
    flux_originals,
    random_matrices,
    sd3_originals,
    spell,
)
from tests.support.sd3_folder import save_sd3

FULL_FLUX = flux_originals(3072, doubles=19, singles=38, text=4096, pooled=768)
TINY_FLUX = flux_originals(128, doubles=2, singles=4, text=64, pooled=64)
SMALL_SD3 = sd3_originals(128, blocks=4, dual=2, text=64, pooled=48)

# Prefix and names of the two matrices, with the authors' names of linears between them.
ORIGINAL = {
    "kohya": ("lora_unet_", KOHYA),
    "ComfyUI": ("diffusion_model.", KOHYA),
    "ComfyUI's extractor": ("diffusion_model.", PEFT),
    "peft": ("base_model.model.", PEFT),
    "the authors": ("", PEFT),
    "a single-file checkpoint": ("model.diffusion_model.", PEFT),
    "peft around ComfyUI's": ("base_model.model.diffusion_model.", PEFT),
}
# The same with diffusers' names of linears.
DIFFUSERS = {
    "diffusers": ("transformer.", PEFT),
    "diffusers, bare": ("", PEFT),
    "peft": ("base_model.model.", PEFT),
    "peft in diffusers": ("transformer.base_model.model.", PEFT),
    "peft's state dict": ("", ("lora_A.default.weight", "lora_B.default.weight")),
    "OneTrainer": ("lora_transformer_", KOHYA),
    "LyCORIS": ("lycoris_", KOHYA),
    "ai-toolkit": ("diffusion_model.", PEFT),
    "early diffusers": ("transformer.", ("lora.down.weight", "lora.up.weight")),
}


@pytest.fixture(scope="module")
def flux():
    return diffusers.FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer")


@pytest.fixture(scope="module")
def sd3(tmp_path_factory):
    folder = save_sd3(tmp_path_factory.mktemp("sd35"))
    return diffusers.SD3Transformer2DModel.from_pretrained(folder, subfolder="transformer")


def linears_of(model):
    return [name for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)]


def fused_changes(model, content, path):
    """What a LoRA file adds to the weight of each linear of a transformer."""
    save_file(content, path)
    fused = copy.deepcopy(model)
    assert fuse_lora({"transformer": fused}, path, 1.0) == len(linears_of(model))
    return {
        name: fused.get_submodule(name).weight - model.get_submodule(name).weight
        for name in linears_of(model)
    }


def assert_equal(ours, expected):
    assert ours.keys() == expected.keys()
    for name, change in ours.items():
        torch.testing.assert_close(change, expected[name], rtol=1e-5, atol=1e-5, msg=name)


def products(content):
    """B·A of each linear in a file of diffusers' spelling."""
    names = {key.partition(".lora_")[0] for key in content if ".lora_" in key}
    return {
        name.removeprefix("transformer."): content[f"{name}.{PEFT[1]}"]
        @ content[f"{name}.{PEFT[0]}"]
        for name in names
    }


def flux_in_diffusers(matrices):
    """A LoRA of the embedded model, by diffusers' converter. That knows one size of `linear1`."""
    rest = {name: pair for name, pair in matrices.items() if "linear1" not in name}
    found = products(
        converters._convert_kohya_flux_lora_to_diffusers(spell(rest, "lora_unet_", KOHYA))
    )
    for name in matrices.keys() - rest.keys():
        b, a = matrices[name]
        block = f"single_transformer_blocks.{name.split('.')[1]}"
        parts = "attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"
        rows = (b @ a).split([128, 128, 128, 512])
        found |= {f"{block}.{part}": each for part, each in zip(parts, rows, strict=True)}
    return found


@pytest.mark.parametrize("spelling", ORIGINAL)
def test_every_spelling_with_the_authors_names_of_flux_is_what_diffusers_makes_of_it(
    flux, tmp_path, spelling
):
    matrices = random_matrices(TINY_FLUX)
    content = spell(matrices, *ORIGINAL[spelling])
    ours = fused_changes(flux, content, tmp_path / "lora.safetensors")
    assert_equal(ours, flux_in_diffusers(matrices))


@pytest.mark.parametrize("spelling", ORIGINAL)
def test_every_spelling_with_stabilitys_names_is_what_diffusers_makes_of_the_checkpoint(
    sd3, tmp_path, spelling
):
    """The products, taken for a checkpoint's weights, become diffusers' weights."""
    matrices = random_matrices(SMALL_SD3)
    ours = fused_changes(sd3, spell(matrices, *ORIGINAL[spelling]), tmp_path / "lora.safetensors")
    checkpoint = {f"{name}.weight": b @ a for name, (b, a) in matrices.items()}
    checkpoint |= {f"{name}.bias": b[:, 0] for name, (b, _) in matrices.items()}
    checkpoint |= {"pos_embed": torch.zeros(1)}
    checkpoint |= {f"x_embedder.proj.{name}": torch.zeros(1) for name in ("weight", "bias")}
    weights = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint)
    assert_equal(ours, {name: weights[f"{name}.weight"] for name in linears_of(sd3)})


def test_the_authors_names_of_chroma_mean_what_diffusers_makes_of_the_checkpoint():
    """Rows are numbered, and of one value. diffusers' converter knows one width."""
    width, layers, names = 3072, 2, chroma_widths()
    rows = {name: torch.arange(out * width)[:, None] for name, out in names.items()}
    checkpoint = {f"{name}.weight": numbers.clone() for name, numbers in rows.items()}
    checkpoint |= {f"{name}.bias": numbers[:, 0] for name, numbers in rows.items()}
    norms = [f"distilled_guidance_layer.norms.{layer}" for layer in range(layers)]
    attentions = [f"double_blocks.{n}.{stream}_attn" for n in range(2) for stream in ("img", "txt")]
    for part in (*attentions, *(f"single_blocks.{n}" for n in range(2))):
        norms += [f"{part}.norm.{kind}_norm" for kind in ("query", "key")]
    checkpoint |= {f"{norm}.scale": torch.zeros(1) for norm in norms}
    converted = convert_chroma_transformer_checkpoint_to_diffusers(checkpoint)
    weights = {
        linear_name("transformer", name.removesuffix(".weight")): weight
        for name, weight in converted.items()
        if weight.ndim == 2
    }
    known = {name: (len(weight), 1) for name, weight in weights.items()}
    meant = {name: find_linears("transformer", name, known) for name in names}
    for name, linears in meant.items():
        assert linears is not None, name
        stacked = torch.cat([weights[linear] for linear in linears.names])
        assert torch.equal(stacked, rows[name]), name
    assert sorted(each for linears in meant.values() for each in linears.names) == sorted(known)


@pytest.mark.parametrize("spelling", DIFFUSERS)
@pytest.mark.parametrize("family", ["flux", "sd3"])
def test_every_spelling_with_diffusers_names_fuses_to_the_same_weights(
    request, tmp_path, family, spelling
):
    model = request.getfixturevalue(family)
    shapes = {name: tuple(model.get_submodule(name).weight.shape) for name in linears_of(model)}
    matrices = random_matrices(shapes)
    content = spell(matrices, *DIFFUSERS[spelling])
    ours = fused_changes(model, content, tmp_path / "lora.safetensors")
    assert_equal(ours, {name: b @ a for name, (b, a) in matrices.items()})


def xlabs_matrices():
    """XLabs' adapters of all blocks, by their names."""
    shapes = {}
    for block in range(19):
        for stream in (1, 2):
            name = f"double_blocks.{block}.processor"
            shapes[f"{name}.qkv_lora{stream}"] = 3 * 3072, 3072
            shapes[f"{name}.proj_lora{stream}"] = 3072, 3072
    for block in range(38):
        shapes[f"single_blocks.{block}.processor.qkv_lora"] = 3 * 3072, 3072
        shapes[f"single_blocks.{block}.processor.proj_lora"] = 3072, 5 * 3072
    return random_matrices(shapes, rank=1)


CONVERTERS = {
    "kohya": ("_convert_kohya_flux_lora_to_diffusers", "lora_unet_", KOHYA, ()),
    "ComfyUI": ("_convert_kohya_flux_lora_to_diffusers", "diffusion_model.", KOHYA, ()),
    "fal": (
        "_convert_fal_kontext_lora_to_diffusers",
        "base_model.model.",
        PEFT,
        ("img_in", "txt_in", "time_in", "guidance_in", "vector_in", "final_layer.adaLN"),
    ),
    "XLabs": ("_convert_xlabs_flux_lora_to_diffusers", "", ("down.weight", "up.weight"), ()),
}


@pytest.fixture(scope="module")
def full_size():
    """Shapes of the linears of FLUX.1 dev, by `linear_name`."""
    config = {**diffusers.FluxTransformer2DModel.load_config(TINY, subfolder="transformer")}
    config |= {"num_layers": 19, "num_single_layers": 38, "num_attention_heads": 24}
    config |= {"attention_head_dim": 128, "joint_attention_dim": 4096, "pooled_projection_dim": 768}
    with torch.device("meta"):
        model = diffusers.FluxTransformer2DModel.from_config(config)
    return {
        linear_name("transformer", name): tuple(model.get_submodule(name).weight.shape)
        for name in linears_of(model)
    }


@pytest.mark.parametrize("converter", CONVERTERS)
def test_a_lora_of_full_size_means_what_diffusers_converters_say(tmp_path, full_size, converter):
    """Of rank 1 and unmultiplied: every linear's rows of B, and its A, are those of diffusers."""
    convert, prefix, parts, absent = CONVERTERS[converter]
    full = xlabs_matrices() if converter == "XLabs" else random_matrices(FULL_FLUX, rank=1)
    matrices = {name: full[name] for name in full if not name.startswith(absent)}
    content = spell(matrices, prefix, parts)
    path = tmp_path / "lora.safetensors"
    save_file(content, path)
    others = getattr(converters, convert)(dict(content))
    ours = {}
    for addition in read_lora(path, full_size):
        b, linears = content[addition.up], addition.linears.names
        b = converters.swap_scale_shift(b) if addition.linears.halves_exchanged else b
        rows = b.split([full_size[linear][0] for linear in linears])
        ours |= {each: (part, addition.down) for each, part in zip(linears, rows, strict=True)}
    names = [key.removesuffix(f".{PEFT[1]}") for key in others if key.endswith(PEFT[1])]
    assert len(names) == len(ours)
    for name in names:
        b, a = ours[linear_name("transformer", name.removeprefix("transformer."))]
        assert torch.equal(b, others[f"{name}.{PEFT[1]}"]), name
        assert torch.equal(content[a], others[f"{name}.{PEFT[0]}"]), name
