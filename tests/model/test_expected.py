"""Names and shapes from a configuration are those of the modules that the libraries build."""

import json
import math
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    ChromaTransformer2DModel,
    ErnieImageTransformer2DModel,
    Flux2Transformer2DModel,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    Mistral3Model,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

from batchgen.model import TINY
from batchgen.model.components.autoencoder import Flux2Vae, Vae
from batchgen.model.components.clip import Clip, ClipWithProjection
from batchgen.model.components.config import parse_config
from batchgen.model.components.qwen3 import Qwen3
from batchgen.model.components.t5 import T5
from batchgen.model.contents import canonical_names, is_harmless
from batchgen.model.families.chroma import ChromaTransformer
from batchgen.model.families.ernie_image import ErnieImageMistral3, ErnieImageTransformer
from batchgen.model.families.flux import FluxTransformer
from batchgen.model.families.flux2 import Flux2Mistral3, Flux2Qwen3, Flux2Transformer
from batchgen.model.families.sd3 import SD3Transformer
from batchgen.model.families.zimage import ZImageQwen3, ZImageTransformer

SD3 = {
    "in_channels": 16,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "caption_projection_dim": 16,
    "pooled_projection_dim": 12,
    "out_channels": 16,
    "pos_embed_max_size": 5,
}
SMALL_CLIP = {
    "vocab_size": 30,
    "hidden_size": 8,
    "intermediate_size": 20,
    "projection_dim": 6,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 11,
}
SMALL_T5 = {"vocab_size": 9, "d_model": 6, "d_kv": 5, "d_ff": 7, "num_layers": 2, "num_heads": 3}
# Channels change between some blocks and stay between others.
VAES = {
    "as FLUX.1's": {"mid_block_add_attention": True, "layers_per_block": 2},
    "with all convolutions": {"use_quant_conv": True, "use_post_quant_conv": True},
    "with other channels": {"block_out_channels": [8, 8, 24, 16], "norm_num_groups": 4},
}


def tiny(component: str, **changes: Any) -> dict[str, Any]:
    content = json.loads((TINY / component / "config.json").read_text())
    return dict(content) | changes


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The state dict's, T5's shared embeddings once."""
    return {
        name.removeprefix("text_model."): tuple(tensor.shape)
        for name, tensor in module.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("singles", [0, 3])
def test_a_flux_transformer_has_the_expected_tensors(guidance: bool, singles: int) -> None:
    config = tiny("transformer", guidance_embeds=guidance, num_single_layers=singles)
    with torch.device("meta"):
        built = FluxTransformer2DModel.from_config(config)
    checked = parse_config(config, FluxTransformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


@pytest.mark.parametrize("norm", ["rms_norm", None])
@pytest.mark.parametrize("dual", [[], [0, 1], [2]])
def test_an_sd3_transformer_has_the_expected_tensors(norm: str | None, dual: list[int]) -> None:
    config = SD3 | {"qk_norm": norm, "dual_attention_layers": dual}
    with torch.device("meta"):
        built = SD3Transformer2DModel.from_config(config)
    checked = parse_config(config, SD3Transformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


@pytest.mark.parametrize("what", VAES)
def test_a_vae_has_the_expected_tensors(what: str) -> None:
    config = tiny("vae", **VAES[what])
    with torch.device("meta"):
        built = AutoencoderKL.from_config(config)
    assert dict(parse_config(config, Vae, where="here").tensors()) == shapes(built)


@pytest.mark.parametrize(
    ("kind", "config"), [(CLIPTextModel, Clip), (CLIPTextModelWithProjection, ClipWithProjection)]
)
def test_a_clip_has_the_expected_tensors(kind: Any, config: type[Clip]) -> None:
    with torch.device("meta"):
        built = kind(CLIPTextConfig(**SMALL_CLIP))
    assert dict(parse_config(SMALL_CLIP, config, where="here").tensors()) == shapes(built)


@pytest.mark.parametrize("mlp", ["relu", "gated-gelu"])
def test_a_t5_has_the_expected_tensors(mlp: str) -> None:
    config = SMALL_T5 | {"feed_forward_proj": mlp}
    with torch.device("meta"):
        built = T5EncoderModel(T5Config(**config))
    assert dict(parse_config(config, T5, where="here").tensors()) == shapes(built)


CHROMA = {
    "in_channels": 12,
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "axes_dims_rope": [4, 2, 2],
    "approximator_num_channels": 16,
    "approximator_hidden_dim": 20,
    "approximator_layers": 2,
}


@pytest.mark.parametrize("singles", [0, 3])
def test_a_chroma_transformer_has_the_expected_tensors(singles: int) -> None:
    config = CHROMA | {"num_single_layers": singles}
    with torch.device("meta"):
        built = ChromaTransformer2DModel.from_config(config)
    checked = parse_config(config, ChromaTransformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


def test_chroma_has_the_published_number_of_parameters() -> None:
    """Chroma1-HD's configuration, and the size of its transformer in 16 bits: 17.80 GB.

    https://huggingface.co/lodestones/Chroma1-HD tells of 8.9 billion parameters.
    """
    config = {
        "approximator_hidden_dim": 5120,
        "approximator_layers": 5,
        "approximator_num_channels": 64,
        "attention_head_dim": 128,
        "axes_dims_rope": [16, 56, 56],
        "guidance_embeds": False,
        "in_channels": 64,
        "joint_attention_dim": 4096,
        "num_attention_heads": 24,
        "num_layers": 19,
        "num_single_layers": 38,
        "out_channels": None,
        "patch_size": 1,
        "pooled_projection_dim": 768,
    }
    tensors = parse_config(config, ChromaTransformer, where="here").tensors()
    parameters = sum(math.prod(shape) for _, shape in tensors)
    assert 2 * parameters == pytest.approx(9_946_193_392 + 7_853_894_360, rel=1e-5)


@pytest.mark.parametrize("guidance", [True, False])
@pytest.mark.parametrize("singles", [0, 3])
def test_a_flux2_transformer_has_the_expected_tensors(singles: int, guidance: bool) -> None:
    config = {
        "in_channels": 12,
        "num_layers": 2,
        "num_single_layers": singles,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": 24,
        "axes_dims_rope": [2, 2, 2, 2],
        "mlp_ratio": 2.5,
        "guidance_embeds": guidance,
    }
    with torch.device("meta"):
        built = Flux2Transformer2DModel.from_config(config)
    checked = parse_config(config, Flux2Transformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


@pytest.mark.parametrize("width", [48, 300])  # narrower and wider than what modulates
@pytest.mark.parametrize("refiners", [0, 2])
@pytest.mark.parametrize("norm", [True, False])
def test_a_zimage_transformer_has_the_expected_tensors(
    width: int, refiners: int, norm: bool
) -> None:
    config = {
        "dim": width,
        "n_layers": 2,
        "n_refiner_layers": refiners,
        "n_heads": 3,
        "n_kv_heads": 3,
        "qk_norm": norm,
        "in_channels": 6,
        "cap_feat_dim": 10,
        "axes_dims": [width // 3 - 8, 4, 4],
        "axes_lens": [600, 9, 9],
    }
    with torch.device("meta"):
        built = ZImageTransformer2DModel.from_config(config)
    checked = parse_config(config, ZImageTransformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


@pytest.mark.parametrize("decoder", [None, [4, 8]])
def test_the_vae_of_flux2_has_the_expected_tensors(decoder: list[int] | None) -> None:
    config = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": [8, 16],
        "decoder_block_out_channels": decoder,
        "latent_channels": 6,
        "norm_num_groups": 4,
    }
    with torch.device("meta"):
        built = shapes(AutoencoderKLFlux2.from_config(config))
    built.pop("bn.num_batches_tracked")
    assert dict(parse_config(config, Flux2Vae, where="here").tensors()) == built


@pytest.mark.parametrize("bias", [False, True])
def test_qwen3_has_the_expected_tensors_as_far_as_it_is_read(bias: bool) -> None:
    config = {
        "vocab_size": 9,
        "hidden_size": 6,
        "intermediate_size": 10,
        "num_hidden_layers": 29,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "attention_bias": bias,
    }
    with torch.device("meta"):
        built = shapes(Qwen3Model(Qwen3Config(**config)))
    if bias:  # of q, k, v and the output
        assert "layers.0.self_attn.o_proj.bias" in built
    assert dict(parse_config(config, Qwen3, where="here").tensors()) == built
    read = {
        name: shape
        for name, shape in built.items()
        if not name.startswith(("layers.27.", "layers.28.", "norm."))
    }
    checked = parse_config(config, Flux2Qwen3, where="here")
    assert dict(checked.tensors()) == read
    assert all(is_harmless(name, checked) != (name in read) for name in built)
    assert not is_harmless("layers.29.mlp.up_proj.weight", checked)
    but_one = parse_config(config, ZImageQwen3, where="here")
    read = {name for name in built if not name.startswith(("layers.28.", "norm."))}
    assert dict(but_one.tensors()).keys() == read
    assert all(is_harmless(name, but_one) != (name in read) for name in built)


@pytest.mark.parametrize("text", [16, 10])  # as wide as the transformer, and not
def test_an_ernie_image_transformer_has_the_expected_tensors(text: int) -> None:
    config = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_layers": 2,
        "ffn_hidden_size": 20,
        "in_channels": 12,
        "out_channels": 12,
        "text_in_dim": text,
        "rope_axes_dim": [4, 2, 2],
    }
    with torch.device("meta"):
        built = ErnieImageTransformer2DModel.from_config(config)
    checked = parse_config(config, ErnieImageTransformer, where="here")
    assert dict(checked.tensors()) == shapes(built)


MISTRAL = {
    "vocab_size": 9,
    "hidden_size": 6,
    "intermediate_size": 10,
    "num_hidden_layers": 31,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
}
VISION = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 4}


@pytest.mark.parametrize("text", ["mistral", "ministral3"])
@pytest.mark.parametrize(
    ("kind", "config"),
    [(Mistral3Model, ErnieImageMistral3), (Mistral3ForConditionalGeneration, Flux2Mistral3)],
)
def test_mistral3_has_the_expected_tensors_as_far_as_it_is_read(
    kind: Any, config: type[Flux2Mistral3 | ErnieImageMistral3], text: str
) -> None:
    """Its pictures' half and its last layer, the norm and the head are not."""
    content = {"text_config": MISTRAL | {"model_type": text}, "vision_config": VISION}
    with torch.device("meta"):
        built = shapes(kind(Mistral3Config(**content)))
    checked = parse_config(content, config, where="here")
    names = {theirs: ours for ours, theirs in canonical_names(built, config)}
    read = {
        names[name]: shape
        for name, shape in built.items()
        if "language_model." in name and ".layers.30." not in name
    }
    del read["norm.weight"]
    assert dict(checked.tensors()) == read
    assert all(is_harmless(name, checked) != (name in read) for name in names.values())
    # An older version's names, and a layer that the configuration does not have.
    older = {f"language_model.model.{name}": read[name] for name in read}
    assert [ours for ours, _ in canonical_names(older, config)] == list(read)
    assert not is_harmless("layers.31.mlp.up_proj.weight", checked)


ERNIE_IMAGE = {
    "hidden_size": 4096,
    "ffn_hidden_size": 12288,
    "num_layers": 36,
    "num_attention_heads": 32,
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "qk_layernorm": True,
    "rope_axes_dim": [32, 48, 48],
    "rope_theta": 256,
    "text_in_dim": 3072,
    "eps": 1e-06,
}
FLUX2_DEV = {
    "in_channels": 128,
    "num_layers": 8,
    "num_single_layers": 48,
    "num_attention_heads": 48,
    "attention_head_dim": 128,
    "joint_attention_dim": 15360,
    "guidance_embeds": True,
}
MISTRAL_SMALL = {
    "vocab_size": 131072,
    "hidden_size": 5120,
    "intermediate_size": 32768,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
}
MINISTRAL = MISTRAL_SMALL | {
    "hidden_size": 3072,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
}


@pytest.mark.parametrize(
    ("kind", "config", "billions"),
    [
        # "8B" and "32B" are what the authors call them.
        (ErnieImageTransformer, ERNIE_IMAGE, 8.03),
        (ErnieImageTransformer, ERNIE_IMAGE | {"lora_rank": 4, "use_lora": False}, 8.03),
        (Flux2Transformer, FLUX2_DEV, 32.22),
        # Of 24B with the other layers, the head and what looks at pictures.
        (Flux2Mistral3, {"text_config": MISTRAL_SMALL}, 17.34),
        (ErnieImageMistral3, {"text_config": MINISTRAL}, 3.31),
    ],
)
def test_published_configurations_have_the_published_numbers_of_parameters(
    kind: Any, config: dict[str, Any], billions: float
) -> None:
    checked = parse_config(config, kind, where="here")
    numbers = sum(math.prod(shape) for _, shape in checked.tensors())
    assert numbers == pytest.approx(billions * 1e9, abs=5e6)
