"""A small Stable Diffusion 3.5 medium with random weights.

It has every peculiarity of the published model.
"""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    AutoTokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from batchgen.model import TINY

# The CLIPs' tokens, side by side, are padded to T5's width.
CLIP_WIDTHS, T5_WIDTH = (16, 32), 64
# Positions are the middle of a square of 13 tokens. 13 is odd, so some crops are off its centre.
POSITIONS = 13
MOST_PX = POSITIONS * 16


def save_sd3(folder: Path, *, strength: float = 1.0, **changes: object) -> Path:
    """Make the model and save it.

    :param strength: factor of the transformer's matrices.
    :param changes: to the transformer's configuration.
    """
    torch.manual_seed(0)
    config = {
        "sample_size": 16,
        "num_layers": 4,
        "attention_head_dim": 32,
        "num_attention_heads": 4,
        "joint_attention_dim": T5_WIDTH,
        "caption_projection_dim": 128,
        "pooled_projection_dim": sum(CLIP_WIDTHS),
        "pos_embed_max_size": POSITIONS,
        "dual_attention_layers": (0, 1),
        "qk_norm": "rms_norm",
    }
    transformer = SD3Transformer2DModel(**(config | changes))
    for name, parameter in transformer.named_parameters():
        # The norms of queries and keys are all ones when new: none could be told from another.
        if ".norm_" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        if parameter.ndim == 2:
            parameter.data *= strength
    clip, t5 = (AutoTokenizer.from_pretrained(TINY / name) for name in ("tokenizer", "tokenizer_2"))
    first, second = (_clip(width, len(clip)) for width in CLIP_WIDTHS)
    StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_vae(),
        text_encoder=first,
        tokenizer=clip,
        text_encoder_2=second,
        tokenizer_2=clip,
        text_encoder_3=_t5(len(t5)),
        tokenizer_3=t5,
    ).save_pretrained(folder)
    return folder


def _clip(width: int, words: int) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=words,
            hidden_size=width,
            intermediate_size=2 * width,
            projection_dim=width,
            num_hidden_layers=3,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )


def _t5(words: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(
            vocab_size=words,
            d_model=T5_WIDTH,
            d_kv=32,
            d_ff=128,
            num_layers=2,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )


def _vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
