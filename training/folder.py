"""The embedded model's parts, untrained, and the `FluxPipeline` folder of trained ones.

The architecture is FLUX.1-dev's, made small: the same classes, the same 2×2 packing of 16-channel
latents at an eighth of the picture's size, the same dynamic shift in the scheduler.
"""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from training.vocabulary import clip_tokenizer, t5_tokenizer

TEXT_WIDTH = 64


def new_vae() -> AutoencoderKL:
    """Make an autoencoder: 8 times smaller, 16 channels, no attention.

    Its norms have one group, because the layers are narrow.
    """
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 64),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=1,
        sample_size=128,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
        scaling_factor=1.0,
        shift_factor=0.0,
    )


def new_transformer() -> FluxTransformer2DModel:
    """Make a transformer of two double-stream and four single-stream blocks, 4 heads of 32."""
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=2,
        num_single_layers=4,
        attention_head_dim=32,
        num_attention_heads=4,
        joint_attention_dim=TEXT_WIDTH,
        pooled_projection_dim=TEXT_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(8, 12, 12),
    )


def new_clip() -> CLIPTextModel:
    """Make the encoder of a caption as one vector: two layers."""
    tokenizer = clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_t5() -> T5EncoderModel:
    """Make the encoder of a caption's words: two layers."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(t5_tokenizer()),
            d_model=TEXT_WIDTH,
            d_kv=32,
            d_ff=4 * TEXT_WIDTH,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
            use_cache=False,
        )
    )


def new_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Make a scheduler with FLUX.1-dev's settings."""
    return FlowMatchEulerDiscreteScheduler(
        shift=3.0,
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=1.15,
        base_image_seq_len=256,
        max_image_seq_len=4096,
    )


def save_pipeline(
    out: Path,
    vae: AutoencoderKL,
    transformer: FluxTransformer2DModel,
    clip: CLIPTextModel,
    t5: T5EncoderModel,
) -> None:
    """Save the pipeline in bf16 beside `out`, then rename it to `out`."""
    models: list[Any] = [vae, clip, t5, transformer]
    vae, clip, t5, transformer = (copy.deepcopy(model).bfloat16() for model in models)
    pipeline = FluxPipeline(
        new_scheduler(), vae, clip, clip_tokenizer(), t5, t5_tokenizer(), transformer
    )
    draft, old = out.with_name(out.name + ".draft"), out.with_name(out.name + ".old")
    shutil.rmtree(draft, ignore_errors=True)
    pipeline.save_pretrained(draft)
    make_portable(draft)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def make_portable(folder: Path) -> None:
    """Make the files readable by all, without this machine's paths.

    The class of the tokenizers gets the name that all releases of transformers know.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
        if path.suffix == ".json":
            text = path.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast")
            lines = [line for line in text.splitlines() if "_name_or_path" not in line]
            path.write_text("\n".join(lines) + "\n")
