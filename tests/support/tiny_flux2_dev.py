"""FLUX.2 dev, small and with random weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Pipeline,
    Flux2Transformer2DModel,
)
from torch import Tensor
from transformers import AutoTokenizer, Mistral3ForConditionalGeneration
from transformers.processing_utils import ProcessorMixin

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from tests.support.tiny_families import (
    STRENGTH,
    TEXT_TOKENS,
    TinyFamily,
    spread_norms,
    strengthen,
    tiny_vae,
)
from tests.support.tiny_mistral3 import TEMPLATE, mistral3_config, mistral_tokenizer


class TextProcessor(ProcessorMixin):
    """In the place of `PixtralProcessor`, which is not to be had without torchvision.

    What that one does with texts is in the class that both inherit.
    """

    def __init__(self, tokenizer: Any, chat_template: str | None = None) -> None:
        super().__init__(tokenizer, chat_template=chat_template)


def save_dev(folder: Path, **changes: Any) -> Path:
    """A FLUX.2 dev.

    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    # Several versions of the library pad this tokenizer's texts on the left.
    tokenizer = mistral_tokenizer(chat_template=TEMPLATE, padding_side="left")
    # The last layer is not read.
    encoder = Mistral3ForConditionalGeneration(mistral3_config(len(tokenizer), 31))
    config = {
        "in_channels": 64,
        "num_layers": 1,
        "num_single_layers": 3,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 96,
        "axes_dims_rope": (8, 8, 8, 8),
        "guidance_embeds": True,
    }
    transformer = Flux2Transformer2DModel(**(config | changes))
    strengthen(transformer, STRENGTH)
    for module in (transformer, encoder):
        spread_norms(module)
    Flux2Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=tiny_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    # As published: the processor's folder is the tokenizer's, with settings for pictures.
    index = folder / "model_index.json"
    named = json.loads(index.read_text()) | {"tokenizer": ["transformers", "PixtralProcessor"]}
    index.write_text(json.dumps(named))
    settings = folder / "tokenizer" / "tokenizer_config.json"
    named = json.loads(settings.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}
    settings.write_text(json.dumps(named))
    return folder


@dataclass(frozen=True)
class TinyDev(TinyFamily):
    """FLUX.2 dev, as the tests that all families pass know it."""

    embedded: bool = True

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
        parts = {
            "transformer": Flux2Transformer2DModel,
            "vae": AutoencoderKLFlux2,
            "text_encoder": Mistral3ForConditionalGeneration,
        }
        pipeline = Flux2Pipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            tokenizer=TextProcessor(tokenizer, chat_template=tokenizer.chat_template),
            **{
                name: kind.from_pretrained(folder / name, dtype=dtype)
                for name, kind in parts.items()
            },
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        with self._contrast(pipeline, picture):
            return pipeline(
                prompt=[picture.prompt],
                guidance_scale=picture.guidance,
                width=picture.width,
                height=picture.height,
                num_inference_steps=picture.steps,
                generator=[torch.Generator().manual_seed(picture.seed)],
                max_sequence_length=TEXT_TOKENS,
                output_type=output_type,
            ).images

    @contextmanager
    def _contrast(self, pipeline: Any, picture: Picture) -> Iterator[None]:
        """The pipeline has no negative prompts; its transformer is asked twice in their place."""
        if not picture.negative_prompt:
            yield
            return
        negative, _ = pipeline.encode_prompt(
            picture.negative_prompt, max_sequence_length=TEXT_TOKENS
        )
        forward = pipeline.transformer.forward

        def twice(**given: Any) -> tuple[Tensor]:
            (wanted,) = forward(**given)
            (unwanted,) = forward(**given | {"encoder_hidden_states": negative})
            return (unwanted + picture.true_cfg * (wanted - unwanted),)

        with mock.patch.object(pipeline.transformer, "forward", twice):
            yield

    def stock_tokens(self, pipeline: Any, prompt: str) -> int:
        seen = []
        with (
            mock.patch.object(pipeline.text_encoder, "forward", lambda **given: seen.append(given)),
            pytest.raises(AttributeError),
        ):
            pipeline.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS)
        return int(seen[0]["attention_mask"].sum())

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        return denoised.latents

    def has_linear(self, component: str, name: str) -> bool:
        if component == "transformer":
            return True
        layer = re.match(r"model\.language_model\.layers\.(\d+)\.", name)
        return layer is not None and int(layer[1]) < self.layers


DEV = TinyDev(
    save_dev,
    linears=8 + 3 * 2,
    kinds=2,
    contrasts=False,
    broken=(
        ("tokenizer/chat_template.jinja", {}, "no chat template, neither as"),
        ("text_encoder/config.json", {"text_config": {}}, "text_config.hidden_size is missing"),
        ("transformer/config.json", {"joint_attention_dim": 64}, "joint_attention_dim = 64"),
        ("transformer/config.json", {"guidance_embeds": False}, "guidance_embedder"),
        ("transformer/config.json", {"num_single_layers": 4}, "needs 4 tensors"),
        ("model_index.json", {"_class_name": "Flux2KleinPipeline"}, "text_encoder is"),
    ),
    layers=30,
    originals={
        "double_blocks.0.img_attn.qkv": [
            f"transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")
        ],
        "single_blocks.2.linear1": ["single_transformer_blocks.2.attn.to_qkv_mlp_proj"],
        "guidance_in.in_layer": ["time_guidance_embed.guidance_embedder.linear_1"],
        "guidance_in.out_layer": ["time_guidance_embed.guidance_embedder.linear_2"],
    },
)
