"""Z-Image and Z-Image-Turbo.

Semantics are those of diffusers' `ZImagePipeline`; tests/engine/families/test_every_family.py
compares the two. Text and image flow through the blocks as one stream. Before they meet, two blocks
refine the text, once a group, and two blocks the image, at every step.

The text is Qwen3's last hidden layer but one; what comes after it is neither loaded nor computed. A
prompt goes through the chat template of the tokenizer, with thinking left on, and
`model.max_sequence_length` counts the template's tokens too. Texts keep their lengths in a group:
the model was trained without padding, but for the learned tokens that fill text and image up to
multiples of 32. These are attended to. Where the image begins depends on the text's length, so
positions differ by row.

`guidance` is the pipeline's `guidance_scale`: the velocity is positive + guidance · (positive -
negative), so that 0 is no guidance, and classifier-free guidance as this engine counts it has the
scale guidance + 1. Over 0 every picture has a second row, for its negative prompt or for "".
Z-Image-Turbo is used with 0.

Not covered: the pipeline's `cfg_normalization` and `cfg_truncation` (off by default there, too);
Z-Image-Omni and -Edit, reference pictures, ControlNets (other pipeline classes).

Legend: R rows, S text tokens of which a row has s of its own, s' with learned padding, S' of all
rows; T image tokens, C values of a token, D width, A width of what modulates, N steps, M = 4·D.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from batchgen.engine.attention.fuse import AttentionOf
from batchgen.engine.attention.heads import Rotary
from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Family, Text
from batchgen.engine.families.first_layers import FirstLayers
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, tokenize
from batchgen.engine.families.zimage_blocks import ImageBlock, JointBlock
from batchgen.engine.modulation import Modulator
from batchgen.manifest import Picture
from batchgen.model import ZIMAGE_MULTIPLE


class ZImage(Family):
    """Z-Image on a device."""

    # The values of a token: row, column, channel.
    token_order = (0, 2, 4, 3, 5, 1)
    latents_dtype = torch.float32
    ragged = True

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.ZImageTransformer2DModel)
        self._refiners = len(self.transformer.noise_refiner)
        for block in self.transformer.noise_refiner:
            block.__class__ = ImageBlock
        for block in self.transformer.layers:
            block.__class__ = JointBlock
        self.blocks = [*self.transformer.noise_refiner, *self.transformer.layers]
        self.text = load(folder, "text_encoder", FirstLayers(-1), device)
        self.encoders: tuple[nn.Module, ...] = (self.text,)
        self._tokenizer = load_tokenizer(folder, "tokenizer")
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """A hidden layer of Qwen3, which reads from left to right: padding changes no token."""
        texts, length = [self._in_template(prompt) for prompt in prompts], self._max_sequence_length
        batch = tokenize(self._tokenizer, texts, length, padding_side="right")
        tokens = self.text(
            input_ids=upload(batch.input_ids, self._device.kind),
            attention_mask=upload(batch.attention_mask, self._device.kind),
            use_cache=False,
        ).last_hidden_state
        return Text(tokens, lengths=tuple(batch.attention_mask.sum(dim=1).tolist()))

    def _in_template(self, prompt: str) -> str:
        text: str = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        return text

    def cfg_scale(self, picture: Picture) -> float:
        """One more than `guidance`.

        :raises JobError: a `true_cfg` that would change nothing.
        """
        return 1 + super().cfg_scale(picture)

    def levels(self, steps: int) -> dict[str, Any]:
        """N evenly spaced levels from 1 to 1/N, rounded as the pipeline rounds them."""
        return {"sigmas": torch.linspace(1.0, 1 / steps, steps).tolist()}

    def modulator(self) -> Modulator:
        """A linear of each block. What modulates is not activated before it."""
        linears = [[block.adaLN_modulation[0]] for block in self.blocks]
        for block in self.blocks:
            del block.adaLN_modulation
        return Modulator(linears, activation=nn.Identity())

    def attentions(self) -> list[AttentionOf]:
        """See `Family`."""
        return [
            AttentionOf(block.attention, alone=index < self._refiners)
            for index, block in enumerate(self.blocks)
        ]

    def conditions(
        self,
        text: Text,
        timesteps: Tensor,
        guidance: Tensor,  # noqa: ARG002 - not embedded
        size: tuple[int, int],
    ) -> Conditions:
        """Refined text; time of every step; positions of text and image."""
        assert text.lengths is not None
        own, (rows, tokens, _) = tuple(map(_padded, text.lengths)), text.tokens.shape
        model = self.transformer
        times = model.t_embedder((1000 - timesteps) / 1000 * model.t_scale)
        return Conditions(
            self._refined(self._captions(text), own),
            times.to(self._device.dtype).unsqueeze(1).expand(-1, rows, -1),
            self._rotary(own, _padded(tokens), *self.grid(*size)),
            own,
        )

    def _captions(self, text: Text) -> Tensor:
        """Embedded text [R, S', D], every token that is not a row's own being the learned one."""
        assert text.lengths is not None
        embedded = self.transformer.cap_embedder(text.tokens)
        count = embedded.shape[1]
        embedded = nn.functional.pad(embedded, (0, 0, 0, _padded(count) - count))
        lengths = torch.tensor(text.lengths)
        padding = torch.arange(embedded.shape[1]) >= lengths[:, None]
        return torch.where(
            upload(padding, self._device.kind).unsqueeze(-1),
            self.transformer.cap_pad_token,
            embedded,
        )

    def _refined(self, captions: Tensor, own: Sequence[int]) -> Tensor:
        """The text [R, S', D] after its blocks; neighbours of one length go through them together.

        These blocks have no modulations, so that all steps share their result.

        :param own: s' of each row.
        """
        refined, first = torch.zeros_like(captions), 0
        for length, group in itertools.groupby(own):
            rows = slice(first, first + len(list(group)))
            tokens, turns = captions[rows, :length], self._angles(_text_positions(length))
            parts = upload(torch.view_as_real(turns), self._device.kind)
            angles = torch.view_as_complex(parts)
            for block in self.transformer.context_refiner:
                tokens = block(tokens, None, angles.expand(len(tokens), -1, -1))
            refined[rows, :length] = tokens
            first = rows.stop
        return refined

    def _rotary(self, own: Sequence[int], text_tokens: int, rows: int, columns: int) -> Rotary:
        """Tables [R, S' + T, E]: a head's values are pairs, and both of a pair have one angle."""
        text = _text_positions(text_tokens)
        grids = {length: _image_positions(length, rows, columns) for length in set(own)}
        positions = torch.stack([torch.cat([text, grids[length]]) for length in own])
        angles = torch.unflatten(self._angles(positions.flatten(0, 1)), 0, positions.shape[:2])
        cosines, sines = (
            upload(part.repeat_interleave(2, dim=-1), self._device.kind)
            for part in (angles.real, angles.imag)
        )
        return cosines, sines

    def _angles(self, positions: Tensor) -> Tensor:
        """Positions [n, 3] → [n, E / 2], complex numbers of length 1; all on the host.

        The model would move its tables to the device of the positions, and wait for that.
        """
        angles: Tensor = self.transformer.rope_embedder(positions)
        return angles

    def image_tokens(self, width: int, height: int) -> int:
        """See `Family`: the grid's, and learned ones behind them."""
        return _padded(super().image_tokens(width, height))

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """A linear, and the learned tokens."""
        embedder = self.transformer.all_x_embedder["2-1"]
        tokens: Tensor = embedder(latents.to(self._device.dtype))
        missing = self.image_tokens(*size) - tokens.shape[1]
        padding = self.transformer.x_pad_token.expand(len(tokens), missing, -1)
        return torch.cat([tokens, padding], dim=1) if missing else tokens

    def block(
        self, index: int, image: Tensor, text: Tensor, modulation: Tensor, rotary: Rotary | None
    ) -> tuple[Tensor, Tensor]:
        """A block of the image alone, or of text and image."""
        assert rotary is not None
        if index < self._refiners:
            of_image = tuple(table[:, text.shape[1] :] for table in rotary)
            (image,) = self.blocks[index](
                hidden_states=image, temb=modulation, image_rotary_emb=of_image
            )
        else:
            image, text = self.blocks[index](
                hidden_states=image,
                encoder_hidden_states=text,
                temb=modulation,
                image_rotary_emb=rotary,
            )
        return image, text

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """The model predicts the way from noise to picture, and steps go along the opposite."""
        towards: Tensor = self.transformer.all_final_layer["2-1"](image, c=temb)
        return -towards.float()


def _padded(tokens: int) -> int:
    """How many tokens there are with the learned ones that follow."""
    return -(-tokens // ZIMAGE_MULTIPLE) * ZIMAGE_MULTIPLE


def _text_positions(tokens: int) -> Tensor:
    """(place, 0, 0), from 1 on."""
    positions = torch.zeros(tokens, 3, dtype=torch.int64)
    positions[:, 0] = torch.arange(1, tokens + 1)
    return positions


def _image_positions(text_tokens: int, rows: int, columns: int) -> Tensor:
    """(first place after the text, row, column); the learned tokens have (0, 0, 0)."""
    place, row, column = torch.meshgrid(
        torch.tensor([text_tokens + 1]), torch.arange(rows), torch.arange(columns), indexing="ij"
    )
    grid = torch.stack([place, row, column], dim=-1).flatten(0, 2)
    return nn.functional.pad(grid, (0, 0, 0, _padded(len(grid)) - len(grid)))
