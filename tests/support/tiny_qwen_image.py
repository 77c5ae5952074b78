"""A small Qwen-Image with random weights, saved as its pipeline saves it."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from tests.support.tiny_family import SPECIAL, TEXT_TOKENS, TinyFamily, spread_norms, strengthen
from tests.support.video_vae import make_video_vae

# Factor of the matrices of a new transformer.
STRENGTH = 1.2


@functools.cache
def frame() -> str:
    """What the stock pipeline writes around a prompt, which stands for `{}`."""
    empty = dict.fromkeys(("vae", "text_encoder", "tokenizer", "transformer", "scheduler"))
    return str(QwenImagePipeline(**empty).prompt_template_encode)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and for each word of the frame: its first part has 34 of them."""
    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        min_frequency=1,
        show_progress=False,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bare.train_from_iterator(re.split(r"<\|\w+\|>", frame().replace("{}", "")), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
    )


def make_encoder(vocabulary: int) -> Qwen2_5_VLForConditionalGeneration:
    """Two layers of 32, and eyes that never open."""
    text = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": None,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    )


def save_qwen_image(folder: Path, **changes: Any) -> Path:
    """A Qwen-Image.

    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    tokenizer = word_tokenizer()
    config = {
        "num_layers": 3,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 32,
        "axes_dims_rope": (8, 12, 12),
    }
    transformer = QwenImageTransformer2DModel(**(config | changes))
    encoder = make_encoder(len(tokenizer))
    strengthen(transformer, STRENGTH)
    # Blocks matter as much as in a trained model, and steps change velocities as little: gates are
    # large and the same at every time.
    for block in transformer.transformer_blocks:
        for modulation in (block.img_mod, block.txt_mod):
            torch.nn.init.normal_(modulation[1].bias)
    transformer.proj_out.weight.data *= 0.3
    for module in (transformer, encoder):
        spread_norms(module)
    # The published ones.
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
    )
    QwenImagePipeline(
        transformer=transformer,
        scheduler=scheduler,
        vae=make_video_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TinyQwenImage(TinyFamily):
    """See `TinyFamily`. The pipeline's latents are tokens; its scale has another name."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        """See `TinyFamily`."""
        contrasted = picture.guidance > 1
        return pipeline(
            prompt=[picture.prompt],
            negative_prompt=[picture.negative_prompt] if contrasted else None,
            true_cfg_scale=picture.guidance if contrasted else 1.0,
            width=picture.width,
            height=picture.height,
            num_inference_steps=picture.steps,
            generator=[torch.Generator().manual_seed(picture.seed)],
            max_sequence_length=TEXT_TOKENS,
            output_type=output_type,
        ).images

    def stock_tokens(self, pipeline: Any, prompt: str) -> int:
        """See `TinyFamily`."""
        seen: list[Any] = []
        with (
            mock.patch.object(pipeline.text_encoder, "forward", lambda **given: seen.append(given)),
            pytest.raises(AttributeError),
        ):
            pipeline.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS)
        tokens = int(seen[0]["attention_mask"].sum())
        return tokens - int(pipeline.prompt_template_encode_start_idx)

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        """See `TinyFamily`."""
        return denoised.latents

    def has_linear(self, component: str, name: str) -> bool:
        """See `TinyFamily`."""
        return component == "transformer" or name.startswith("model.language_model.layers.")


BROKEN = (
    ("tokenizer/tokenizer.json", {}, "tokenizer.json: missing"),
    ("text_encoder/config.json", {"architectures": ["Qwen3ForCausalLM"]}, "batchgen builds Qwen2"),
    ("text_encoder/config.json", {"text_config": {"hidden_size": 16}}, "vocab_size is missing"),
    ("transformer/config.json", {"zero_cond_t": True}, "zero_cond_t = true"),
    ("transformer/config.json", {"axes_dims_rope": [8, 12, 16]}, "expected three even numbers"),
    ("transformer/config.json", {"num_layers": 4}, "needs 32 tensors"),
    ("vae/config.json", {"latents_mean": [0.0]}, "expected z_dim = 16 numbers each"),
    (
        "vae/config.json",
        {"temperal_downsample": [False, True, False]},
        "has no place for 4 tensors",
    ),
    ("model_index.json", {"_class_name": "QwenImageEditPipeline"}, "has no family here"),
)
QWEN_IMAGE = TinyQwenImage(
    save_qwen_image,
    # Of each block two stacks of q, k and v, two outputs and two MLPs.
    linears=3 * 8,
    kinds=1,
    contrasts=True,
    broken=BROKEN,
    layers=2,
    # Its authors' names are diffusers'.
    originals={
        "transformer_blocks.1.attn.to_q": ["transformer_blocks.1.attn.to_q"],
        "transformer_blocks.0.attn.to_add_out": ["transformer_blocks.0.attn.to_add_out"],
        "transformer_blocks.2.img_mlp.net.0.proj": ["transformer_blocks.2.img_mlp.net.0.proj"],
        "transformer_blocks.0.txt_mod.1": ["transformer_blocks.0.txt_mod.1"],
        "time_text_embed.timestep_embedder.linear_1": [
            "time_text_embed.timestep_embedder.linear_1"
        ],
        "img_in": ["img_in"],
    },
)
