"""Qwen-Image as planning knows it: its published configuration, tensors, and what is refused."""

from math import prod
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from batchgen.engine.vae.one_frame import one_frame
from batchgen.errors import ModelError
from batchgen.model.components.config import Config, parse_config
from batchgen.model.components.qwen25_vl import Qwen25VL
from batchgen.model.components.video_autoencoder import QwenVae
from batchgen.model.contents import canonical_names, is_harmless
from batchgen.model.families.qwen_image import QwenImageTransformer

# As Qwen/Qwen-Image publishes them, and Qwen/Qwen-Image-2512.
TRANSFORMER = {
    "attention_head_dim": 128,
    "axes_dims_rope": [16, 56, 56],
    "guidance_embeds": False,
    "in_channels": 64,
    "joint_attention_dim": 3584,
    "num_attention_heads": 24,
    "num_layers": 60,
    "out_channels": 16,
    "patch_size": 2,
    "pooled_projection_dim": 768,
}
LANGUAGE = {
    "hidden_act": "silu",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "max_position_embeddings": 128000,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "vocab_size": 152064,
}
LATENTS = {"latents_mean": [0.1] * 16, "latents_std": [1.5] * 16}
SMALL_LANGUAGE = LANGUAGE | {
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "num_key_value_heads": 1,
    "rope_scaling": {"mrope_section": [2, 3, 3]},
    "vocab_size": 9,
}


def checked(kind: type[Config], content: dict[str, Any]) -> Any:
    return parse_config(content, kind, where="here")


def parameters(kind: type[Config], content: dict[str, Any]) -> int:
    return sum(prod(shape) for _, shape in checked(kind, content).tensors())


def shapes(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_the_published_model_has_as_many_parameters_as_its_authors_say() -> None:
    """20 billion, an encoder of 7 without its eyes, and a VAE of 127 million."""
    assert parameters(QwenImageTransformer, TRANSFORMER) == 20_430_401_088
    modulations = {
        name: prod(shape)
        for name, shape in checked(QwenImageTransformer, TRANSFORMER).tensors()
        if "_mod." in name
    }
    assert sum(modulations.values()) == pytest.approx(6.8e9, rel=0.01)
    language = parameters(Qwen25VL, LANGUAGE)
    # And a matrix that predicts the next token.
    assert language + 152064 * 3584 == pytest.approx(7.62e9, rel=0.001)
    assert parameters(QwenVae, LATENTS) == pytest.approx(127e6, rel=0.01)


def test_the_transformer_has_the_expected_tensors() -> None:
    content = TRANSFORMER | {
        "attention_head_dim": 8,
        "axes_dims_rope": [2, 2, 4],
        "joint_attention_dim": 10,
        "num_attention_heads": 3,
        "num_layers": 2,
    }
    with torch.device("meta"):
        built = QwenImageTransformer2DModel.from_config(content)
    assert dict(checked(QwenImageTransformer, content).tensors()) == shapes(built)


@pytest.mark.parametrize("times", [[False, True, True], [True, False, False]])
@pytest.mark.parametrize("factors", [[1, 2, 4, 4], [1, 1, 2, 4]])
def test_the_vae_has_the_expected_tensors_and_the_engine_keeps_those_of_one_frame(
    factors: list[int], times: list[bool]
) -> None:
    content = LATENTS | {"base_dim": 4, "dim_mult": factors, "temperal_downsample": times}
    with torch.device("meta"):
        built = AutoencoderKLQwenImage.from_config(content)
    config = checked(QwenVae, content)
    assert dict(config.tensors()) == shapes(built)
    held = [QwenVae.held(name, shape) for name, shape in config.tensors()]
    kept = one_frame(built)
    assert sum(map(prod, filter(None, held))) == sum(x.numel() for x in kept.parameters())


@pytest.mark.parametrize("nested", [False, True])
def test_the_language_part_has_the_expected_tensors_under_both_prefixes(nested: bool) -> None:
    vision = {"depth": 1, "hidden_size": 8, "intermediate_size": 8, "num_heads": 1}
    content = {"text_config": SMALL_LANGUAGE} if nested else SMALL_LANGUAGE
    config = Qwen2_5_VLConfig(**content, vision_config=vision | {"out_hidden_size": 32})
    with torch.device("meta"):
        built = shapes(Qwen2_5_VLForConditionalGeneration(config))
    for before in ("model.language_model.", "model."):
        stored = {
            name.replace("model.language_model.", before).replace("model.visual.", "visual."): shape
            for name, shape in built.items()
        }
        found = {ours: stored[own] for ours, own in canonical_names(stored, Qwen25VL)}
        language = checked(Qwen25VL, content)
        read = {name: its for name, its in found.items() if not is_harmless(name, language)}
        assert read == dict(language.tensors())


@pytest.mark.parametrize(
    ("kind", "content", "told"),
    [
        (QwenImageTransformer, TRANSFORMER | {"out_channels": 64}, "in_channels / 4 = 16"),
        (QwenImageTransformer, TRANSFORMER | {"use_layer3d_rope": True}, "use_layer3d_rope = true"),
        (QwenImageTransformer, TRANSFORMER | {"guidance_embeds": True}, "guidance_embeds = true"),
        (QwenVae, LATENTS | {"base_dim": 3}, "even numbers of channels"),
        (QwenVae, LATENTS | {"attn_scales": [0.5]}, "attn_scales"),
        (QwenVae, LATENTS | {"dim_mult": [1, 2]}, "one value less than dim_mult has"),
        (QwenVae, LATENTS | {"latents_std": [0.0] * 16}, "latents_std.0 = 0.0"),
        (Qwen25VL, SMALL_LANGUAGE | {"rope_scaling": None}, "rope_parameters"),
        (
            Qwen25VL,
            SMALL_LANGUAGE | {"rope_scaling": {"mrope_section": [2, 2, 2]}},
            "mrope_section = [2, 2, 2]: expected three numbers whose sum is half of a head",
        ),
        (Qwen25VL, SMALL_LANGUAGE | {"use_sliding_window": True}, "use_sliding_window = true"),
    ],
)
def test_what_the_engine_cannot_paint_with_is_refused(
    kind: type[Config], content: dict[str, Any], told: str
) -> None:
    with pytest.raises(ModelError) as refused:
        checked(kind, content)
    assert told in str(refused.value)
