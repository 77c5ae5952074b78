"""Stable Diffusion 3 medium and 3.5 medium, large and turbo, and whatever was tuned from them.

They differ in configuration alone: 3.5 normalises queries and keys, and in the first blocks of 3.5
medium image tokens attend once more, among themselves. Semantics are those of diffusers'
`StableDiffusion3Pipeline`; tests/engine/families/test_every_family.py and test_sd3.py compare the
two.

`guidance` is the scale of classifier-free guidance, as in the pipeline's call. Over 1 every picture
has a second row, for its negative prompt or for "". FLUX.1's word for that scale, `true_cfg`, is
refused. `model.max_sequence_length` is T5's share of the text: 512 in a job unless it says
otherwise, 256 in the pipeline.

Not covered: skip-layer guidance, IP adapters, ControlNets, inpainting, and checkpoints without T5.

Legend: B pictures, R rows, S text tokens (CLIP's, then T5's), T image tokens, C values of a token,
D width, N steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn

from batchgen.engine.device import Device
from batchgen.engine.families.family import Conditions, Family, Text
from batchgen.engine.families.loading import LoadModule, load_module, load_tokenizer, token_ids


class StableDiffusion3(Family):
    """Stable Diffusion 3 or 3.5 on a device."""

    # The values of a token as the transformer's last linear gives them: row, column, channel.
    token_order = (0, 2, 4, 3, 5, 1)

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: loads a module."""
        super().__init__(folder, device, load, diffusers.SD3Transformer2DModel)
        self.patch = self.transformer.config.patch_size
        self.blocks = [*self.transformer.transformer_blocks]
        self.clip, self.clip_2 = (
            load(folder, component, transformers.CLIPTextModelWithProjection, device)
            for component in ("text_encoder", "text_encoder_2")
        )
        self.text = load(folder, "text_encoder_3", transformers.T5EncoderModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.clip, self.clip_2, self.text)
        self._tokenizers = [
            load_tokenizer(folder, component)
            for component in ("tokenizer", "tokenizer_2", "tokenizer_3")
        ]
        self._max_sequence_length = max_sequence_length

    def encode(self, prompts: Sequence[str]) -> Text:
        """Tokens of both CLIPs, side by side, then T5's; and both pooled vectors.

        A CLIP gives its last layer but one, and sees the beginning of a prompt only.
        """
        *clip_tokenizers, t5_tokenizer = self._tokenizers
        length = clip_tokenizers[0].model_max_length
        clips = [
            clip(token_ids(tokenizer, prompts, length, self._device), output_hidden_states=True)
            for clip, tokenizer in zip((self.clip, self.clip_2), clip_tokenizers, strict=True)
        ]
        short = torch.cat([clip.hidden_states[-2] for clip in clips], dim=-1)
        ids = token_ids(t5_tokenizer, prompts, self._max_sequence_length, self._device)
        long = self.text(ids).last_hidden_state
        short = nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
        pooled = torch.cat([clip.text_embeds for clip in clips], dim=-1)
        return Text(tokens=torch.cat([short, long], dim=1), pooled=pooled)

    def levels(self, steps: int) -> dict[str, Any]:
        """The scheduler chooses the levels."""
        return {"num_inference_steps": steps}

    def conditions(
        self,
        text: Text,
        timesteps: Tensor,
        guidance: Tensor,  # noqa: ARG002 - not embedded
        size: tuple[int, int],  # noqa: ARG002 - see `embed`
    ) -> Conditions:
        """Time and pooled text of every step. Positions are in the image tokens."""
        assert text.pooled is not None
        model, count, rows = self.transformer, len(timesteps), len(text.pooled)
        times = timesteps.repeat_interleave(rows)
        temb = model.time_text_embed(times, text.pooled.repeat(count, 1))
        tokens = model.context_embedder(text.tokens)
        return Conditions(tokens, temb.unflatten(0, (count, rows)), rotary=None)

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """A convolution over patches, and the middle of the trained square of positions."""
        tokens: Tensor = self.transformer.pos_embed(self.unpatchify(latents, *size))
        return tokens.contiguous()

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """The last block drops the text: what comes with its image is never read."""
        assert rotary is None, "positions are in the image tokens"
        left, image = self.blocks[index](
            hidden_states=image, encoder_hidden_states=text, temb=modulation
        )
        return image, text if left is None else left

    def lora_targets(self) -> dict[str, nn.Module]:
        """The transformer, both CLIPs and T5."""
        encoders = {"text_encoder": self.clip, "text_encoder_2": self.clip_2}
        return {"transformer": self.transformer, **encoders, "text_encoder_3": self.text}
