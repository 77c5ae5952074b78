"""FLUX.1: dev, Krea and schnell, and whatever was tuned from them.

They differ in two configuration values: dev and Krea embed a guidance scale and shift their noise levels with the picture's
size, schnell does neither. Semantics are those of diffusers' `FluxPipeline`; tests/engine/test_parity.py compares the two.
Not covered: Fill, Canny, Depth, Redux and Kontext (other pipeline classes), IP adapters, ControlNets.

Legend: B pictures, R rows, S text tokens, C' latent channels (16), h×w latent pixels, T = h/2 · w/2 image tokens, each a 2×2 patch
of C = 4·C' values.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import diffusers
import numpy as np
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
from batchgen.manifest import Picture


class Flux:
    """FLUX.1 on a device; fulfils `Family`."""

    def __init__(
        self, folder: Path, device: Device, max_sequence_length: int, load: LoadModule = load_module
    ) -> None:
        """:param load: how its modules come: benchmarks of full size make them up."""
        self._device, self._max_sequence_length = device, max_sequence_length
        self.transformer = load(folder, "transformer", diffusers.FluxTransformer2DModel, device)
        self.blocks = [
            *self.transformer.transformer_blocks,
            *self.transformer.single_transformer_blocks,
        ]
        self.vae = load(folder, "vae", diffusers.AutoencoderKL, device)
        self.clip = load(folder, "text_encoder", transformers.CLIPTextModel, device)
        self.t5 = load(folder, "text_encoder_2", transformers.T5EncoderModel, device)
        self.encoders: tuple[nn.Module, ...] = (self.clip, self.t5)
        self._clip_tokenizer, self._t5_tokenizer = (
            load_tokenizer(folder, "tokenizer"),
            load_tokenizer(folder, "tokenizer_2"),
        )
        self._scheduler = load_scheduler(folder)
        self._shrink = 2 ** (len(self.vae.config.block_out_channels) - 1)

    def encode(self, prompts: Sequence[str]) -> Text:
        """CLIP's pooled vector of at most 77 tokens (it sees the beginning only), T5's tokens without an attention mask: as trained."""
        short = token_ids(
            self._clip_tokenizer, prompts, self._clip_tokenizer.model_max_length, self._device
        )
        long = token_ids(self._t5_tokenizer, prompts, self._max_sequence_length, self._device)
        return Text(tokens=self.t5(long).last_hidden_state, pooled=self.clip(short).pooler_output)

    def cfg_scale(self, picture: Picture) -> float:
        """`true_cfg` where there is a negative prompt; FLUX's own guidance is embedded and needs no second branch."""
        return picture.true_cfg if picture.negative_prompt else 1.0

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """(16, height / 8, width / 8)."""
        return (
            self.transformer.config.in_channels // 4,
            height // self._shrink,
            width // self._shrink,
        )

    def pack(self, noise: Tensor) -> Tensor:
        """[B, C', h, w] → [B, T, C]: a token is a 2×2 patch of all channels."""
        batch, channels, high, wide = noise.shape
        patches = noise.view(batch, channels, high // 2, 2, wide // 2, 2)
        return patches.permute(0, 2, 4, 1, 3, 5).reshape(
            batch, (high // 2) * (wide // 2), channels * 4
        )

    def unpack(self, latents: Tensor, width: int, height: int) -> Tensor:
        """[B, T, C] → [B, C', h, w], in the VAE's own scale."""
        channels, high, wide = self.noise_shape(width, height)
        patches = latents.view(-1, high // 2, wide // 2, channels, 2, 2)
        pixels = patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, high, wide)
        scaled: Tensor = pixels / self.vae.config.scaling_factor + self.vae.config.shift_factor
        return scaled

    def schedule(self, steps: int, width: int, height: int) -> Schedule:
        """N evenly spaced levels from 1 to 1/N, shifted as the checkpoint's scheduler says: larger pictures stay noisy for longer."""
        _, high, wide = self.noise_shape(width, height)
        mu = dynamic_shift(self._scheduler, (high // 2) * (wide // 2))
        self._scheduler.set_timesteps(
            sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu, device=self._device.kind
        )
        return Schedule(self._scheduler.sigmas, self._scheduler.timesteps)

    def conditions(
        self, text: Text, timesteps: Tensor, guidance: Tensor, size: tuple[int, int]
    ) -> Conditions:
        """Time, guidance (schnell has none to embed) and pooled text of every step; rotary positions of text and image."""
        model = self.transformer
        _, high, wide = self.noise_shape(*size)
        count, rows = len(timesteps), len(guidance)
        timesteps = timesteps.to(self._device.dtype)
        scaled = [
            (timesteps / 1000 * 1000).repeat_interleave(rows)
        ]  # as the pipeline and the model between them do, rounding included
        if model.config.guidance_embeds:
            scaled.append((guidance.to(timesteps.dtype) * 1000).repeat(count))
        temb = model.time_text_embed(*scaled, text.pooled.repeat(count, 1)).unflatten(
            0, (count, rows)
        )
        return Conditions(
            model.context_embedder(text.tokens),
            temb,
            self._rotary(text.tokens.shape[1], high // 2, wide // 2),
        )

    def _rotary(self, text_tokens: int, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Positions are (nothing, row, column) of each token; those of text are 0."""
        ids = torch.zeros(rows, columns, 3)
        ids[..., 1] = torch.arange(rows)[:, None]
        ids[..., 2] = torch.arange(columns)[None, :]
        ids = torch.cat([torch.zeros(text_tokens, 3), ids.reshape(rows * columns, 3)])
        cosines, sines = self.transformer.pos_embed(
            ids.to(device=self._device.kind, dtype=self._device.dtype)
        )
        return cosines, sines

    def embed(self, latents: Tensor, size: tuple[int, int]) -> Tensor:  # noqa: ARG002 - a token is embedded alike wherever it stands
        """A linear."""
        tokens: Tensor = self.transformer.x_embedder(latents)
        return tokens

    def block(
        self,
        index: int,
        image: Tensor,
        text: Tensor,
        modulation: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """A double or a single block: they have one signature."""
        text, image = self.blocks[index](
            hidden_states=image,
            encoder_hidden_states=text,
            temb=modulation,
            image_rotary_emb=rotary,
        )
        return image, text

    def modulated(self, image: Tensor, modulation: Tensor) -> Tensor:
        """See `Family.modulated`."""
        shifted: Tensor = self.transformer.transformer_blocks[0].norm1(image, emb=modulation)[0]
        return shifted

    def head(self, image: Tensor, temb: Tensor) -> Tensor:
        """A modulated norm and a linear."""
        velocity: Tensor = self.transformer.proj_out(self.transformer.norm_out(image, temb))
        return velocity

    def lora_targets(self) -> dict[str, tuple[nn.Linear, ...]]:
        """Names of diffusers (`transformer.…`, `text_encoder.…`), of BFL and of kohya's scripts, which fuse q, k and v."""
        own = named_linears(self.transformer)
        targets: dict[str, tuple[nn.Linear, ...]] = {
            f"transformer_{name}": (linear,) for name, linear in own.items()
        }
        targets |= {
            f"text_encoder_{name.removeprefix('text_model_')}": (linear,)
            for name, linear in named_linears(self.clip).items()
        }
        for theirs, ours in _bfl_names(
            len(self.transformer.transformer_blocks),
            len(self.transformer.single_transformer_blocks),
        ).items():
            targets[f"bfl_{theirs}"] = tuple(own[name] for name in ours)
        return targets


def _bfl_names(double: int, single: int) -> dict[str, tuple[str, ...]]:
    """Linears as Black Forest Labs name them → diffusers' linears whose rows, stacked, they are."""
    names: dict[str, tuple[str, ...]] = {}
    for block in range(double):
        theirs, ours = f"double_blocks_{block}", f"transformer_blocks_{block}"
        names |= {
            f"{theirs}_img_attn_qkv": (
                f"{ours}_attn_to_q",
                f"{ours}_attn_to_k",
                f"{ours}_attn_to_v",
            ),
            f"{theirs}_img_attn_proj": (f"{ours}_attn_to_out_0",),
            f"{theirs}_img_mlp_0": (f"{ours}_ff_net_0_proj",),
            f"{theirs}_img_mlp_2": (f"{ours}_ff_net_2",),
            f"{theirs}_img_mod_lin": (f"{ours}_norm1_linear",),
            f"{theirs}_txt_attn_qkv": (
                f"{ours}_attn_add_q_proj",
                f"{ours}_attn_add_k_proj",
                f"{ours}_attn_add_v_proj",
            ),
            f"{theirs}_txt_attn_proj": (f"{ours}_attn_to_add_out",),
            f"{theirs}_txt_mlp_0": (f"{ours}_ff_context_net_0_proj",),
            f"{theirs}_txt_mlp_2": (f"{ours}_ff_context_net_2",),
            f"{theirs}_txt_mod_lin": (f"{ours}_norm1_context_linear",),
        }
    for block in range(single):
        theirs, ours = f"single_blocks_{block}", f"single_transformer_blocks_{block}"
        names |= {
            f"{theirs}_linear1": (
                f"{ours}_attn_to_q",
                f"{ours}_attn_to_k",
                f"{ours}_attn_to_v",
                f"{ours}_proj_mlp",
            ),
            f"{theirs}_linear2": (f"{ours}_proj_out",),
            f"{theirs}_modulation_lin": (f"{ours}_norm_linear",),
        }
    return names
