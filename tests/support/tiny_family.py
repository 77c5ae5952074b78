"""What small models of all families are made of, and what the tests know of a family."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import AutoencoderKLFlux2, DiffusionPipeline
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

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
