"""Stable Diffusion 3 medium and 3.5 medium, large and turbo, and whatever was tuned from them.

They differ in configuration alone: 3.5 normalises queries and keys, and in the first blocks of 3.5 medium image tokens attend once
more, among themselves. Semantics are those of diffusers' `StableDiffusion3Pipeline`; tests/engine/test_sd3.py compares the two.

`guidance` is the scale of classifier-free guidance here, as it is in the pipeline's call; over 1 every picture has a second row, contrasted
with its negative prompt, "" where there is none. `true_cfg` is FLUX.1's word for that scale: asking for it is refused, not guessed at.
`model.max_sequence_length` is T5's share of the text; the pipeline's default is 256, a job's 512.

Not covered: skip-layer guidance, IP adapters, ControlNets, inpainting, checkpoints without T5, LoRAs under Stability's own names.

Legend: B pictures, R rows, S text tokens (those of CLIP, then T5's), C' latent channels (16), h×w latent pixels, p their number along a
token's side (2), T = h/p · w/p image tokens, each a patch of C = p·p·C' values, N steps, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from torch import Tensor, nn

from batchgen.engine.device import Device
from batchgen.engine.families.family import Conditions, Schedule, Text
from batchgen.engine.families.loading import (
    LoadModule,
    dynamic_shift,
    load_module,
    load_scheduler,
    load_tokenizer,
    token_ids,
)
from batchgen.engine.families.lora import named_linears
from batchgen.errors import JobError
from batchgen.manifest import Picture


class StableDiffusion3:
    """Stable Diffusion 3 or 3.5 on a device; fulfils `Family`."""

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: how its modules come."""
        self._device, self._max_sequence_length = device, max_sequence_length
        self.transformer = load(folder, "transformer", diffusers.SD3Transformer2DModel, device)
        self.blocks = [*self.transformer.transformer_blocks]
        self.vae = load(folder, "vae", diffusers.AutoencoderKL, device)
        self.clip, self.clip_2 = (
            load(folder, component, transformers.CLIPTextModelWithProjection, device)
            for component in ("text_encoder", "text_encoder_2")
        )
        self.t5 = load(folder, "text_encoder_3", transformers.T5EncoderModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.clip, self.clip_2, self.t5)
        self._tokenizers = [
            load_tokenizer(folder, component)
            for component in ("tokenizer", "tokenizer_2", "tokenizer_3")
        ]
        self._scheduler = load_scheduler(folder)
        self._shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._patch: int = self.transformer.config.patch_size

    def encode(self, prompts: Sequence[str]) -> Text:
        """Both CLIPs' last layer but one, side by side (they see the beginning of a prompt only), then T5's tokens; both pooled vectors."""
        *clip_tokenizers, t5_tokenizer = self._tokenizers
        length = clip_tokenizers[0].model_max_length
        clips = [
            clip(token_ids(tokenizer, prompts, length, self._device), output_hidden_states=True)
            for clip, tokenizer in zip((self.clip, self.clip_2), clip_tokenizers, strict=True)
        ]
        short = torch.cat([clip.hidden_states[-2] for clip in clips], dim=-1)
        long = self.t5(
            token_ids(t5_tokenizer, prompts, self._max_sequence_length, self._device)
        ).last_hidden_state
        short = nn.functional.pad(short, (0, long.shape[-1] - short.shape[-1]))
        return Text(
            tokens=torch.cat([short, long], dim=1),
            pooled=torch.cat([clip.text_embeds for clip in clips], dim=-1),
        )

    def cfg_scale(self, picture: Picture) -> float:
        """`guidance`.

        :raises JobError: a `true_cfg` that would change nothing.
        """
        if picture.true_cfg > 1:
            raise JobError(
                f"true_cfg = {picture.true_cfg:g}: Stable Diffusion 3 has one guidance scale, and it is called guidance; "
                "give it there, and leave true_cfg out of the manifest and of [sampling]"
            )
        return picture.guidance

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(16, height / 8, width / 8)."""
        return self.transformer.config.in_channels, height // self._shrink, width // self._shrink

    def pack(self, noise: Tensor) -> Tensor:
        """[B, C', h, w] → [B, T, C], values in the order in which the transformer's last linear gives them: row, column, channel."""
        batch, channels, high, wide = noise.shape
        patches = noise.view(
            batch, channels, high // self._patch, self._patch, wide // self._patch, self._patch
        )
        return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, -1, self._patch**2 * channels)

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """[B, T, C] → [B, C', h, w], in the VAE's own scale."""
        scaled: Tensor = (
            self._pixels(latents, width, height) / self.vae.config.scaling_factor
            + self.vae.config.shift_factor
        )
        return scaled

    def _pixels(self, latents: Tensor, width: int, height: int) -> Tensor:
        """[B, T, C] → [B, C', h, w]: `pack` undone."""
        channels, high, wide = self.noise_shape(width, height)
        patches = latents.view(
            -1, high // self._patch, wide // self._patch, self._patch, self._patch, channels
        )
        return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, high, wide)

    def schedule(self, steps: int, width: int, height: int) -> Schedule:
        """N levels, spaced and shifted as the checkpoint's scheduler says: published ones shift all sizes alike."""
        _, high, wide = self.noise_shape(width, height)
        mu = dynamic_shift(self._scheduler, (high // self._patch) * (wide // self._patch))
        self._scheduler.set_timesteps(steps, mu=mu, device=self._device.kind)
        return Schedule(self._scheduler.sigmas, self._scheduler.timesteps)

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:  # noqa: ARG002 - see `embed`
        """Time and pooled text of every step. Guidance is not embedded, and positions are in the image tokens."""
        count, rows = len(timesteps), len(text.pooled)
        temb = self.transformer.time_text_embed(
            timesteps.repeat_interleave(rows), text.pooled.repeat(count, 1)
        )
        return Conditions(
            self.transformer.context_embedder(text.tokens),
            temb.unflatten(0, (count, rows)),
            rotary=None,
        )

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:
        """A convolution over patches, and the middle of the trained square of positions."""
        tokens: Tensor = self.transformer.pos_embed(self._pixels(latents, *size))
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

    def modulated(self, image: Tensor, modulation: Tensor) -> Tensor:
        """See `Family.modulated`."""
        shifted: Tensor = self.transformer.transformer_blocks[0].norm1(image, emb=modulation)[0]
        return shifted

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """A modulated norm and a linear."""
        velocity: Tensor = self.transformer.proj_out(self.transformer.norm_out(image, temb))
        return velocity

    def lora_targets(self) -> dict[str, tuple[nn.Linear, ...]]:
        """Names of diffusers: `transformer.…`, `text_encoder.…`, `text_encoder_2.…`."""
        modules = {
            "transformer": self.transformer,
            "text_encoder": self.clip,
            "text_encoder_2": self.clip_2,
        }
        return {
            f"{component}_{name.removeprefix('text_model_')}": (linear,)
            for component, module in modules.items()
            for name, linear in named_linears(module).items()
        }
