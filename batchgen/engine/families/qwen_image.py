"""Qwen-Image and Qwen-Image-2512.

Semantics are those of diffusers' `QwenImagePipeline`; tests/engine/families/test_every_family.py
compares the two. All blocks are as FLUX.1's double blocks, with other names for their modulations.

The text is the last hidden state of Qwen2.5-VL, of which only the language part is loaded. Every
prompt stands in the same text, whose first 34 tokens are encoded and then dropped. The others, 5
tokens behind the prompt among them, are what `model.max_sequence_length` limits. A row's tokens
attend to its own text and not to padding.

`guidance` is the scale of classifier-free guidance, `true_cfg_scale` in the pipeline's call: over 1
every picture has a second row, for its negative prompt or for "". The pipeline then gives each
token's velocity the length that it had without guidance, and so does `denoise.contrast`.

Not covered: editing and layered models, reference pictures, inpainting.

Legend: R rows, S text tokens, T image tokens, C values of a token, D width, E head width, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn

from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Family, Text
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, tokenize
from batchgen.engine.modulation import Modulator, Slice
from batchgen.model import QWEN_IMAGE


class LanguageModel(transformers.Qwen2_5_VLTextModel):  # type: ignore[no-untyped-call]
    """The language part of Qwen2.5-VL, from the files of the whole."""

    # transformers need not tell of them: planning has checked that nothing else is left over.
    _keys_to_ignore_on_load_unexpected = [r"^(model\.)?visual\.", r"^lm_head\."]  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, *path: Any, **options: Any) -> Any:
        """As transformers' own. Files of its version 5 have a further prefix."""
        prefixes = {r"^model\.language_model\.": "", r"^model\.": ""}
        return super().from_pretrained(*path, key_mapping=prefixes, **options)


class QwenImage(Family):
    """Qwen-Image on a device."""

    token_order = (0, 2, 4, 1, 3, 5)
    autoencoder = diffusers.AutoencoderKLQwenImage
    ragged = True
    renormalised = True

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.QwenImageTransformer2DModel)
        self.blocks = list(self.transformer.transformer_blocks)
        self.text = load(folder, "text_encoder", LanguageModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.text,)
        self._tokenizer = load_tokenizer(folder, "tokenizer")
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """The last hidden state. The encoder is causal: padding comes last and needs no mask."""
        (before, behind), unread = QWEN_IMAGE.around, QWEN_IMAGE.unread
        texts = [f"{before}{prompt}{behind}" for prompt in prompts]
        length = unread + self._max_sequence_length
        batch = tokenize(self._tokenizer, texts, length, padding_side="right")
        ids = upload(batch.input_ids, self._device.kind)
        hidden = self.text(input_ids=ids, use_cache=False).last_hidden_state
        lengths = (batch.attention_mask.sum(dim=1) - unread).tolist()
        return Text(hidden[:, unread:], lengths=tuple(map(int, lengths)))

    def modulator(self) -> Modulator:
        """Each block's two linears, image before text."""
        return Modulator([_take_modulations(block) for block in self.blocks])

    def modulated(self, image: Tensor, modulation: Tensor) -> Tensor:
        """See `Family`."""
        shift, scale = modulation[:, None, : 2 * image.shape[-1]].chunk(2, dim=-1)
        normalised: Tensor = self.transformer.transformer_blocks[0].img_norm1(image)
        return normalised * (1 + scale) + shift

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time of every step; rotary positions of text and image."""
        model, count, rows = self.transformer, len(timesteps), len(guidance)
        timesteps = timesteps.to(self._device.dtype)
        times = (timesteps / 1000).repeat_interleave(rows)
        tokens = model.txt_in(model.txt_norm(text.tokens))
        temb = model.time_text_embed(times, tokens)  # of the tokens, their type alone
        rotary = self._rotary(tokens.shape[1], *self.grid(*size))
        return Conditions(tokens, temb.unflatten(0, (count, rows)), rotary, text.lengths)

    def _rotary(self, text_tokens: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines [S + T, E], those of a complex number's real and imaginary part.

        Positions of image tokens are (0, row, column), counted from the middle of the picture.
        Text tokens are on the diagonal, the first of them at half of the longer side.
        """
        image = torch.zeros(rows, columns, 3)
        image[..., 1] = (torch.arange(rows) - (rows - rows // 2))[:, None]
        image[..., 2] = (torch.arange(columns) - (columns - columns // 2))[None, :]
        text = torch.arange(text_tokens)[:, None] + max(rows, columns) // 2
        ids = torch.cat([text.expand(-1, 3).float(), image.reshape(rows * columns, 3)])
        widths = self.transformer.config.axes_dims_rope
        axes = [
            get_1d_rotary_pos_embed(width, places, use_real=True)
            for width, places in zip(widths, upload(ids, self._device.kind).T, strict=True)
        ]
        cosines, sines = (torch.cat(parts, dim=-1) for parts in zip(*axes, strict=True))
        return cosines, sines

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - see SD3's
        """A linear. A token is embedded alike wherever it stands."""
        tokens: Tensor = self.transformer.img_in(latents)
        return tokens

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """See `Family`. No mask: attention knows the lengths of the texts."""
        text, image = self.blocks[index](
            hidden_states=image,
            encoder_hidden_states=text,
            encoder_hidden_states_mask=None,
            temb=modulation,
            image_rotary_emb=rotary,
        )
        return image, text

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """See `Family`."""
        config = self.vae.config
        reduction = 2 ** len(config.temperal_downsample)
        return config.z_dim, height // reduction, width // reduction

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """Each latent channel has a mean and a deviation of its own."""
        pixels, config = self.unpatchify(latents, width, height), self.vae.config
        deviation, mean = (
            torch.tensor(values).view(1, -1, 1, 1).to(pixels)
            for values in (config.latents_std, config.latents_mean)
        )
        return pixels * deviation + mean


def _take_modulations(block: Any) -> list[nn.Linear]:
    """The linears of a block's modulations, which leave it: it is handed what they compute."""
    image, text = (stream[1] for stream in (block.img_mod, block.txt_mod))
    end = image.out_features + text.out_features
    block.img_mod, block.txt_mod = Slice(0, image.out_features), Slice(image.out_features, end)
    return [image, text]
