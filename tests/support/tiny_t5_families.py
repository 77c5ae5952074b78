"""FLUX.1 and Stable Diffusion 3.5, as the tests that all families pass know them."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from batchgen.model import TINY
from tests.support.sd3_folder import save_sd3
from tests.support.stock import sd3_call, stock_call
from tests.support.tiny_families import TEXT_TOKENS, TinyFamily


class SeenEnoughError(Exception):
    """A text encoder was called."""


@dataclass(frozen=True)
class T5Family(TinyFamily):
    """A family whose longest text is T5's, and all of whose linears change pictures."""

    # Component folders of the text encoders, T5 last.
    encoders: tuple[str, ...] = ("text_encoder",)

    def stock_tokens(self, pipeline: Any, prompt: str) -> int:
        """Tokens of a prompt as the pipeline gives them to T5, without padding."""
        t5, seen = getattr(pipeline, self.encoders[-1]), list[Tensor]()

        def look(ids: Tensor, **_: Any) -> None:
            seen.append(ids)
            raise SeenEnoughError

        with mock.patch.object(t5, "forward", look), pytest.raises(SeenEnoughError):
            pipeline._get_t5_prompt_embeds(prompt, max_sequence_length=TEXT_TOKENS)
        tokenizer = getattr(pipeline, self.encoders[-1].replace("text_encoder", "tokenizer"))
        return int((seen[0] != tokenizer.pad_token_id).sum())

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        """The pipelines of FLUX.1 and Chroma return tokens."""
        return denoised.latents

    def text_encoders(self, pipeline: Any) -> dict[str, torch.nn.Module]:
        return {name: getattr(pipeline, name) for name in self.encoders}

    def has_linear(self, component: str, name: str) -> bool:
        return True


@dataclass(frozen=True)
class TinyFlux(T5Family):
    """FLUX.1."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        return stock_call(pipeline, [picture], output_type, text_tokens=TEXT_TOKENS)


@dataclass(frozen=True)
class TinySD3(T5Family):
    """Stable Diffusion 3.5."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        return sd3_call(pipeline, [picture], output_type, text_tokens=TEXT_TOKENS)

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        """The pipeline returns pixels of latents."""
        return engine.family.unpatchify(denoised.latents, picture.width, picture.height)


def save_dev(folder: Path) -> Path:
    """The embedded model, configured like FLUX.1-dev."""
    return Path(shutil.copytree(TINY, folder))


DEV = TinyFlux(
    save_dev,
    # Of each double block two stacks of q, k and v, two outputs and two MLPs; two of a single one.
    linears=2 * 8 + 4 * 2,
    kinds=2,
    contrasts=False,
    embedded=True,
    steps=8,
    teacache=True,
    encoders=("text_encoder", "text_encoder_2"),
    layers=0,
    word="red ",
    broken=(
        ("tokenizer_2/tokenizer.json", {}, "tokenizer_2/tokenizer.json: missing"),
        ("transformer/config.json", {"pooled_projection_dim": 32}, "pooled_projection_dim = 32"),
        ("transformer/config.json", {"axes_dims_rope": [8, 8, 8]}, "expected three even numbers"),
        ("transformer/config.json", {"num_single_layers": 5}, "needs 14 tensors"),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas = true"),
        ("model_index.json", {"_class_name": "FluxFillPipeline"}, "has no family here"),
        ("model_index.json", {"text_encoder_2": [None, None]}, "does not paint without T5"),
    ),
    originals={
        "double_blocks.1.img_attn.qkv": [
            f"transformer_blocks.1.attn.{name}" for name in ("to_q", "to_k", "to_v")
        ],
        "double_blocks.0.txt_mod.lin": ["transformer_blocks.0.norm1_context.linear"],
        "single_blocks.3.linear2": ["single_transformer_blocks.3.proj_out"],
        "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
        "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    },
)
SD3 = TinySD3(
    partial(save_sd3, strength=1.5, pos_embed_max_size=64),
    # Of each block two stacks of q, k and v, two outputs and two MLPs; the last one has no text
    # output and no MLP of text; the first two have a second attention.
    linears=4 * 8 - 3 + 2 * 2,
    kinds=3,
    contrasts=True,
    encoders=("text_encoder", "text_encoder_2", "text_encoder_3"),
    layers=0,
    word="red ",
    broken=(
        ("tokenizer_3/tokenizer.json", {}, "tokenizer_3/tokenizer.json: missing"),
        ("transformer/config.json", {"dual_attention_layers": [9]}, "numbers below num_layers = 4"),
        ("transformer/config.json", {"num_layers": 5}, "needs "),
        ("text_encoder_2/config.json", {"projection_dim": 16}, "pooled_projection_dim = 48"),
        ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "invert_sigmas = true"),
        ("model_index.json", {"text_encoder_3": [None, None]}, "does not paint without T5"),
    ),
    originals={
        "joint_blocks.1.x_block.attn2.qkv": [
            f"transformer_blocks.1.attn2.{name}" for name in ("to_q", "to_k", "to_v")
        ],
        "joint_blocks.3.context_block.attn.qkv": [
            f"transformer_blocks.3.attn.{name}"
            for name in ("add_q_proj", "add_k_proj", "add_v_proj")
        ],
        "joint_blocks.0.context_block.mlp.fc2": ["transformer_blocks.0.ff_context.net.2"],
        "t_embedder.mlp.2": ["time_text_embed.timestep_embedder.linear_2"],
        "final_layer.linear": ["proj_out"],
    },
)
