"""Small models of every family with random weights, saved as their pipelines save them.

The weights are drawn from a seed. No file is committed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import (
    AutoencoderKLFlux2,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture

# As Qwen3's own: the thinking that a model is not to do is written out, empty.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# Text tokens, the template's among them.
TEXT_TOKENS = 80
# Factor of the matrices of new transformers.
STRENGTH = 2.0


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A token for each byte, and pairs of letters."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [("r", "e"), ("re", "d"), ("b", "l"), ("l", "e")]
    words = [*SPECIAL, *alphabet, *("".join(pair) for pair in pairs)]
    bare = Tokenizer(models.BPE({word: number for number, word in enumerate(words)}, pairs))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=TEMPLATE,
    )


def spread_norms(module: torch.nn.Module) -> None:
    """Norms are all ones when new: none could be told from another."""
    for name, parameter in module.named_parameters():
        if "norm" in name and parameter.ndim == 1:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)


def strengthen(transformer: torch.nn.Module, factor: float) -> None:
    """A new model changes its latents little, and an error in it would too."""
    for parameter in transformer.parameters():
        if parameter.ndim == 2:
            parameter.data *= factor


def tiny_vae() -> AutoencoderKLFlux2:
    """FLUX.2's VAE."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=128,
    )
    torch.nn.init.normal_(vae.bn.running_mean)
    torch.nn.init.uniform_(vae.bn.running_var, 0.5, 2.0)
    return vae


def save_klein(folder: Path, *, distilled: bool = False, **changes: Any) -> Path:
    """A FLUX.2 klein.

    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        # The last of them is not read.
        num_hidden_layers=28,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    config = {
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": 96,
        "axes_dims_rope": (8, 8, 8, 8),
        "guidance_embeds": False,
    }
    vae = tiny_vae()
    transformer = Flux2Transformer2DModel(**(config | changes))
    encoder = Qwen3ForCausalLM(text)
    strengthen(transformer, STRENGTH)
    for module in (transformer, encoder):
        spread_norms(module)
    Flux2KleinPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        is_distilled=distilled,
    ).save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class TinyFamily:
    """A family, as the tests that all families pass know it."""

    # Saves a model in a folder, and returns the folder.
    save: Callable[..., Path]
    # Linears of the blocks, where q, k and v of an attention are one.
    linears: int
    # Kinds of blocks that are compiled apart.
    kinds: int
    # Every picture has classifier-free guidance.
    contrasts: bool
    # A file of the folder, changes of it (none: it is removed), and what planning then says.
    broken: Sequence[tuple[str, dict[str, Any], str]]
    # Layers of the text encoder that the model reads.
    layers: int
    # What the model's authors call some linears, and what diffusers calls them.
    originals: Mapping[str, Sequence[str]]
    # `guidance` is an input of the model.
    embedded: bool = False
    # The guidance at which a picture has no classifier-free guidance.
    unguided: float = 1.0
    # Of the first block's residual, by which some steps are skipped and some are not.
    threshold: float = 1.03
    # Denoising steps, of which multistep skips some.
    steps: int = 6
    # TeaCache's coefficients are published.
    teacache: bool = False
    # Text of one token more, wherever it is appended.
    word: str = "x"

    @property
    def reads_guidance(self) -> bool:
        """Whether `guidance` changes pictures."""
        return self.contrasts or self.embedded

    def open(self, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        """The stock pipeline."""
        pipeline = DiffusionPipeline.from_pretrained(folder, dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        """What a user of the pipeline writes for this picture."""
        embedded, _ = pipeline.encode_prompt(
            picture.negative_prompt, max_sequence_length=TEXT_TOKENS
        )
        if not self.contrasts and picture.negative_prompt:
            return self._contrasted(pipeline, picture, embedded)
        return pipeline(
            prompt=[picture.prompt],
            negative_prompt_embeds=embedded,
            guidance_scale=picture.guidance,
            width=picture.width,
            height=picture.height,
            num_inference_steps=picture.steps,
            generator=[torch.Generator().manual_seed(picture.seed)],
            max_sequence_length=TEXT_TOKENS,
            output_type=output_type,
        ).images

    def _contrasted(self, pipeline: Any, picture: Picture, negative: Tensor) -> Any:
        """A distilled model contrasts as an undistilled one does, if it is asked to."""
        pipeline.register_to_config(is_distilled=False)
        try:
            one = replace(picture, guidance=picture.true_cfg)
            return replace(self, contrasts=True).stock(pipeline, one)
        finally:
            pipeline.register_to_config(is_distilled=True)

    def stock_tokens(self, pipeline: Any, prompt: str) -> int:
        """Tokens of a prompt as the pipeline makes them, without padding."""
        seen = []
        with (
            mock.patch.object(pipeline.text_encoder, "forward", lambda **given: seen.append(given)),
            pytest.raises(AttributeError),
        ):
            pipeline.encode_prompt(prompt, max_sequence_length=TEXT_TOKENS)
        return int(seen[0]["attention_mask"].sum())

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        """Latents of the engine as the pipeline returns them."""
        return engine.family.unpack(denoised.latents, picture.width, picture.height)

    def text_encoders(self, pipeline: Any) -> dict[str, torch.nn.Module]:
        return {"text_encoder": pipeline.text_encoder}

    def has_linear(self, component: str, name: str) -> bool:
        """Whether batchgen keeps a linear of the pipeline: others change no picture."""
        if component == "transformer":
            return True
        layer = re.match(r"(?:model\.)?layers\.(\d+)\.", name)
        return layer is not None and int(layer[1]) < self.layers


BROKEN_KLEIN = (
    ("tokenizer/chat_template.jinja", {}, "no chat template, neither as"),
    ("text_encoder/config.json", {"num_hidden_layers": 20}, "expected at least 27, whose outputs"),
    ("text_encoder/config.json", {"hidden_size": 16}, "transformer joint_attention_dim = 96"),
    ("transformer/config.json", {"guidance_embeds": True}, "guidance_embeds = true"),
    ("transformer/config.json", {"axes_dims_rope": [8, 8, 8, 16]}, "expected four even numbers"),
    ("transformer/config.json", {"num_single_layers": 5}, "needs 4 tensors"),
    ("vae/config.json", {"patch_size": [1, 1]}, "patch_size"),
    ("model_index.json", {"_class_name": "Flux2Pipeline"}, "paints Flux2Pipeline with"),
)
KLEIN_ORIGINALS = {
    "double_blocks.1.img_attn.qkv": [
        f"transformer_blocks.1.attn.{name}" for name in ("to_q", "to_k", "to_v")
    ],
    "double_blocks.0.txt_attn.proj": ["transformer_blocks.0.attn.to_add_out"],
    "double_blocks.0.txt_mlp.0": ["transformer_blocks.0.ff_context.linear_in"],
    "single_blocks.3.linear1": ["single_transformer_blocks.3.attn.to_qkv_mlp_proj"],
    "single_blocks.3.linear2": ["single_transformer_blocks.3.attn.to_out"],
    "single_stream_modulation.lin": ["single_stream_modulation.linear"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
    "time_in.out_layer": ["time_guidance_embed.timestep_embedder.linear_2"],
}
KLEIN = TinyFamily(
    save_klein,
    # Of each double block two stacks of q, k and v, two outputs and two MLPs; two of a single one.
    linears=2 * 8 + 4 * 2,
    kinds=2,
    contrasts=True,
    broken=BROKEN_KLEIN,
    layers=27,
    originals=KLEIN_ORIGINALS,
)
