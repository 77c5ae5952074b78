"""FLUX.1: dev, Krea and schnell, and whatever was tuned from them.

They differ in two configuration values: dev and Krea embed a guidance scale and shift their noise
levels with the picture's size, schnell does neither. Semantics are those of diffusers'
`FluxPipeline`; tests/engine/families/test_every_family.py and test_parity.py compare the two.
Not covered: Fill, Canny, Depth, Redux and Kontext (other pipeline classes), IP adapters and
ControlNets.

Legend: R rows, S text tokens, T image tokens, D width, N steps; a token is a patch of 2×2 latent
pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from batchgen.engine.device import Device, upload
from batchgen.engine.families.family import Conditions, Family, Text
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, token_ids
from batchgen.manifest import Picture


class Flux(Family):
    """FLUX.1 on a device."""

    # The values of a token: channel, row, column.
    token_order = (0, 2, 4, 1, 3, 5)

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module. Full-size benchmarks make weights up."""
        super().__init__(folder, device, load, diffusers.FluxTransformer2DModel)
        self.blocks = [
            *self.transformer.transformer_blocks,
            *self.transformer.single_transformer_blocks,
        ]
        self.clip = load(folder, "text_encoder", transformers.CLIPTextModel, device)
        self.text = load(folder, "text_encoder_2", transformers.T5EncoderModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.clip, self.text)
        self._clip_tokenizer = load_tokenizer(folder, "tokenizer")
        self._t5_tokenizer = load_tokenizer(folder, "tokenizer_2")
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """T5's tokens, and CLIP's pooled vector of at most 77 tokens, the beginning of the prompt.

        T5 gets no attention mask, because the model was trained so.
        """
        clip_length = self._clip_tokenizer.model_max_length
        short = token_ids(self._clip_tokenizer, prompts, clip_length, self._device)
        long = token_ids(self._t5_tokenizer, prompts, self._max_sequence_length, self._device)
        return Text(tokens=self.text(long).last_hidden_state, pooled=self.clip(short).pooler_output)

    def cfg_scale(self, picture: Picture) -> float:
        """`true_cfg` where there is a negative prompt. FLUX's own guidance is embedded."""
        return picture.true_cfg if picture.negative_prompt else 1.0

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time, guidance and pooled text of every step; rotary positions of text and image.

        schnell has no guidance to embed.
        """
        model, count, rows = self.transformer, len(timesteps), len(guidance)
        timesteps = timesteps.to(self._device.dtype)
        # As the pipeline and the model between them compute it, rounding included.
        scaled = [(timesteps / 1000 * 1000).repeat_interleave(rows)]
        if model.config.guidance_embeds:
            scaled.append((guidance.to(timesteps.dtype) * 1000).repeat(count))
        assert text.pooled is not None
        temb = model.time_text_embed(*scaled, text.pooled.repeat(count, 1))
        return Conditions(
            model.context_embedder(text.tokens),
            temb.unflatten(0, (count, rows)),
            rotary_positions(model, text.tokens.shape[1], self.grid(*size), self._device),
        )

    def lora_targets(self) -> dict[str, nn.Module]:
        """The transformer, CLIP and T5."""
        encoders = {"text_encoder": self.clip, "text_encoder_2": self.text}
        return {"transformer": self.transformer, **encoders}


def rotary_positions(
    transformer: Any, text_tokens: int, grid: tuple[int, int], device: Device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of FLUX.1's positions, [S + T, ·], text first.

    Positions are (0, row, column) for image tokens, and 0 for text.

    :param grid: rows and columns of image tokens.
    """
    rows, columns = grid
    ids = torch.zeros(rows, columns, 3)
    ids[..., 1] = torch.arange(rows)[:, None]
    ids[..., 2] = torch.arange(columns)[None, :]
    ids = torch.cat([torch.zeros(text_tokens, 3), ids.reshape(rows * columns, 3)])
    cosines, sines = transformer.pos_embed(upload(ids.to(device.dtype), device.kind))
    return cosines, sines
