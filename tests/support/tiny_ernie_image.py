"""ERNIE-Image, small and with random weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    ErnieImagePipeline,
    ErnieImageTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
)
from torch import Tensor
from transformers import Mistral3Model

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from tests.support.tiny_family import STRENGTH, TinyFamily, spread_norms, strengthen, tiny_vae
from tests.support.tiny_mistral3 import YARN, mistral3_config, mistral_tokenizer


def save_ernie(folder: Path, *, text: str = "mistral", **changes: Any) -> Path:
    """An ERNIE-Image.

    :param text: kind of the language model.
    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    tokenizer = mistral_tokenizer(model_max_length=2048)
    encoder = mistral3_config(len(tokenizer), 3, model_type=text, rope_parameters=YARN)
    config = {
        "hidden_size": 128,
        "num_attention_heads": 4,
        "num_layers": 3,
        "ffn_hidden_size": 384,
        "in_channels": 64,
        "out_channels": 64,
        "text_in_dim": 32,
        "rope_axes_dim": (8, 12, 12),
    }
    transformer, text_encoder = (
        ErnieImageTransformer2DModel(**(config | changes)),
        Mistral3Model(encoder),
    )
    # New ones are zeros.
    for linear in (transformer.adaLN_modulation[-1], transformer.final_linear):
        torch.nn.init.normal_(linear.weight, std=0.05)
        torch.nn.init.normal_(linear.bias, std=0.5)
    strengthen(transformer, STRENGTH)
    for module in (transformer, text_encoder):
        spread_norms(module)
    ErnieImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=4.0),
        vae=tiny_vae(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TinyErnie(TinyFamily):
    """ERNIE-Image, as the tests that all families pass know it."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        return pipeline(
            prompt=[picture.prompt],
            negative_prompt=[picture.negative_prompt],
            guidance_scale=picture.guidance,
            width=picture.width,
            height=picture.height,
            num_inference_steps=picture.steps,
            generator=[torch.Generator().manual_seed(picture.seed)],
            output_type=output_type,
        ).images

    def stock_tokens(self, pipeline: Any, prompt: str) -> int:
        seen = []
        with (
            mock.patch.object(pipeline.text_encoder, "forward", lambda **given: seen.append(given)),
            pytest.raises(AttributeError),
        ):
            pipeline.encode_prompt(prompt, torch.device("cpu"))
        return int(seen[0]["input_ids"].numel())

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        return engine.family.unpatchify(denoised.latents, picture.width, picture.height)

    def has_linear(self, component: str, name: str) -> bool:
        if component == "transformer":
            return True
        layer = re.match(r"language_model\.layers\.(\d+)\.", name)
        return layer is not None and int(layer[1]) < self.layers


ERNIE = TinyErnie(
    save_ernie,
    linears=3 * 4,
    kinds=1,
    contrasts=True,
    broken=(
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "tokenizer_class"),
        ("text_encoder/config.json", {"text_config": {}}, "text_config.hidden_size is missing"),
        ("transformer/config.json", {"text_in_dim": 48}, "transformer text_in_dim = 48"),
        ("transformer/config.json", {"qk_layernorm": False}, "qk_layernorm = false"),
        ("transformer/config.json", {"rope_axes_dim": [8, 8, 8]}, "expected three even numbers"),
        ("transformer/config.json", {"num_layers": 4}, "needs 11 tensors"),
        ("transformer/config.json", {"num_attention_heads": 3}, "expected a divisor of hidden"),
        ("vae/config.json", {"patch_size": [1, 1]}, "patch_size"),
    ),
    layers=2,
    # Trainers write diffusers' names.
    originals={
        name: [name]
        for name in (
            "layers.1.self_attention.to_q",
            "layers.0.self_attention.to_out.0",
            "layers.2.mlp.gate_proj",
            "layers.2.mlp.linear_fc2",
            "adaLN_modulation.1",
            "final_norm.linear",
            "text_proj",
        )
    },
)
