"""FLUX.2: klein 4B and 9B, distilled and base, and dev.

Semantics are those of diffusers' `Flux2KleinPipeline` and `Flux2Pipeline`;
tests/engine/families/test_every_family.py compares them. Blocks work as FLUX.1's do, with
differences: all blocks share three modulation linears; no linear has a bias; a single block has one
linear for q, k, v and the MLP.

The text is that of a language model, Qwen3 in klein and the one in a Mistral3 in dev: three of its
hidden layers, side by side. What comes after the last of them is neither loaded nor computed. A
prompt goes through the chat template of the tokenizer, in dev after a message that is the same for
all, and `model.max_sequence_length` counts the template's tokens too.

`guidance` of a base model is the scale of classifier-free guidance, as in the pipeline's call; over
1 every picture has a second row, for its negative prompt or for "". dev embeds it. A distilled
klein has no guidance of its own. With both, `true_cfg` acts where there is a negative prompt, as
with FLUX.1.

Not covered: reference pictures, inpainting, and dev's rewriting of prompts, which its pipeline does
where `caption_upsample_temperature` is given.

Legend: R rows, S text tokens, T image tokens, C values of a token, D width, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import diffusers
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn

from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Text
from batchgen.engine.families.first_layers import FirstLayers
from batchgen.engine.families.flux2_vae import Flux2VaeFamily
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, tokenize
from batchgen.engine.modulation import Modulator
from batchgen.manifest import Picture
from batchgen.model import FLUX2_DEV, FLUX2_KLEIN, MISTRAL3_LAYERS, QWEN3_LAYERS, is_distilled


class Flux2(Flux2VaeFamily):
    """FLUX.2 klein on a device."""

    facts = FLUX2_KLEIN
    # The hidden layers that are the text.
    layers: ClassVar[tuple[int, ...]] = QWEN3_LAYERS

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.Flux2Transformer2DModel)
        self.blocks = [
            *self.transformer.transformer_blocks,
            *self.transformer.single_transformer_blocks,
        ]
        self.text = load(folder, "text_encoder", FirstLayers(self.layers[-1]), device)
        self.encoders: tuple[nn.Module, ...] = (self.text,)
        self._tokenizer = load_tokenizer(folder, "tokenizer")
        self._max_sequence_length = max_sequence_length
        self.embeds_guidance = bool(self.transformer.config.guidance_embeds)
        self.distilled = self.embeds_guidance or is_distilled(folder)

    def encode(self, prompts: Sequence[str]) -> Text:
        """Three hidden layers of the language model, side by side; beside the prompt is padding.

        The blocks attend to padding too, because the model was trained so.
        """
        texts, begin = [self._in_template(prompt) for prompt in prompts], self._tokenizer.bos_token
        # Templates have the token of the beginning, if there is one.
        special = begin is None or not texts[0].startswith(begin)
        length = self._max_sequence_length
        batch = tokenize(self._tokenizer, texts, length, add_special_tokens=special)
        hidden = self.text(
            input_ids=upload(batch.input_ids, self._device.kind),
            attention_mask=upload(batch.attention_mask, self._device.kind),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return Text(torch.cat([hidden[layer] for layer in self.layers], dim=-1))

    def _in_template(self, prompt: str) -> str:
        text: str = self._tokenizer.apply_chat_template(
            self.facts.messages(prompt),
            tokenize=False,
            **{"add_generation_prompt": True, **(self.facts.chat or {})},
        )
        return text

    def cfg_scale(self, picture: Picture) -> float:
        """`guidance` of a base model.

        :raises JobError: a `true_cfg` that would change nothing.
        """
        if self.distilled:
            return picture.true_cfg if picture.negative_prompt else 1.0
        return super().cfg_scale(picture)

    def shift(self, tokens: int, steps: int) -> float:
        """Of tokens and steps, as its authors fitted it; the scheduler's own keys are not read."""
        mu: float = compute_empirical_mu(tokens, steps)
        return mu

    def modulator(self) -> Modulator:
        """Two linears for all double blocks, image before text, and one for all single blocks."""
        model = self.transformer
        double = [
            model.double_stream_modulation_img.linear,
            model.double_stream_modulation_txt.linear,
        ]
        single = [model.single_stream_modulation.linear]
        for name in ("double_stream_modulation_img", "double_stream_modulation_txt"):
            delattr(model, name)
        del model.single_stream_modulation
        doubles, singles = len(model.transformer_blocks), len(model.single_transformer_blocks)
        return Modulator([double] * doubles + [single] * singles)

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time of every step, with guidance where it is embedded; positions of text and image."""
        model, count, rows = self.transformer, len(timesteps), len(guidance)
        timesteps = timesteps.to(self._device.dtype)
        # As the pipeline and the model between them compute it, rounding included.
        times = (timesteps / 1000 * 1000).repeat_interleave(rows)
        scales = (guidance.to(times.dtype) * 1000).repeat(count) if self.embeds_guidance else None
        temb = model.time_guidance_embed(times, scales)
        return Conditions(
            model.context_embedder(text.tokens),
            temb.unflatten(0, (count, rows)),
            self._rotary(text.tokens.shape[1], *self.grid(*size)),
        )

    def _rotary(self, text_tokens: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Positions are (0, row, column, 0) for image tokens, and (0, 0, 0, place) for text."""
        text, image = torch.zeros(text_tokens, 4), torch.zeros(rows, columns, 4)
        text[:, 3] = torch.arange(text_tokens)
        image[..., 1] = torch.arange(rows)[:, None]
        image[..., 2] = torch.arange(columns)[None, :]
        ids = torch.cat([text, image.reshape(rows * columns, 4)])
        cosines, sines = self.transformer.pos_embed(upload(ids, self._device.kind))
        return cosines, sines

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """A double or a single block."""
        shared = {"hidden_states": image, "encoder_hidden_states": text, "image_rotary_emb": rotary}
        if index < len(self.transformer.transformer_blocks):
            of_image, of_text = modulation.chunk(2, dim=-1)
            text, image = self.blocks[index](**shared, temb_mod_img=of_image, temb_mod_txt=of_text)
        else:
            text, image = self.blocks[index](
                **shared, temb_mod=modulation, split_hidden_states=True
            )
        return image, text


class Flux2Dev(Flux2):
    """FLUX.2 dev on a device."""

    facts = FLUX2_DEV
    layers = MISTRAL3_LAYERS
