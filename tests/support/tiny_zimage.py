"""A small Z-Image with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import Tensor
from transformers import Qwen3Config, Qwen3Model

from batchgen.engine.interface import Denoised
from batchgen.engine.torch_engine import TorchEngine
from batchgen.manifest import Picture
from tests.support.tiny_families import (
    STRENGTH,
    TEXT_TOKENS,
    TinyFamily,
    byte_tokenizer,
    spread_norms,
    strengthen,
)

LAYERS, REFINERS = 3, 1


def save_zimage(folder: Path, **changes: Any) -> Path:
    """:param changes: to the transformer's configuration."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        # The last of them is not read.
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=512,
    )
    config = {
        "in_channels": 16,
        "dim": 96,
        "n_layers": LAYERS,
        "n_refiner_layers": REFINERS,
        "n_heads": 6,
        "n_kv_heads": 6,
        "cap_feat_dim": 32,
        "axes_dims": [4, 6, 6],
        "axes_lens": [1024, 64, 64],
    }
    transformer, encoder = ZImageTransformer2DModel(**(config | changes)), Qwen3Model(text)
    strengthen(transformer, STRENGTH)
    for padding in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(padding)
    for module in (transformer, encoder):
        spread_norms(module)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=4,
        sample_size=128,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    ZImagePipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
    ).save_pretrained(folder)
    return folder


class TinyZImage(TinyFamily):
    """Z-Image, as the tests that all families pass know it."""

    def stock(self, pipeline: Any, picture: Picture, output_type: str = "latent") -> Any:
        """See `TinyFamily`."""
        return pipeline(
            prompt=[picture.prompt],
            negative_prompt=[picture.negative_prompt],
            guidance_scale=picture.guidance,
            width=picture.width,
            height=picture.height,
            num_inference_steps=picture.steps,
            generator=[torch.Generator().manual_seed(picture.seed)],
            max_sequence_length=TEXT_TOKENS,
            output_type=output_type,
        ).images

    def as_stock(self, engine: TorchEngine, denoised: Denoised, picture: Picture) -> Tensor:
        """See `TinyFamily`."""
        return engine.family.unpatchify(denoised.latents, picture.width, picture.height)


BROKEN = (
    ("tokenizer/chat_template.jinja", {}, "no chat template, neither as"),
    ("text_encoder/config.json", {"num_hidden_layers": 1}, "expected at least 2"),
    ("text_encoder/config.json", {"hidden_size": 16}, "transformer cap_feat_dim = 32"),
    ("transformer/config.json", {"axes_dims": [4, 4, 4]}, "three even numbers whose sum is"),
    ("transformer/config.json", {"axes_lens": [512, 64, 64]}, "axes_lens.0 = 512"),
    ("transformer/config.json", {"siglip_feat_dim": 32}, "siglip_feat_dim = 32"),
    ("transformer/config.json", {"n_kv_heads": 3}, "n_kv_heads = 3: expected n_heads = 6"),
    ("transformer/config.json", {"n_layers": LAYERS + 1}, "needs 15 tensors"),
    ("model_index.json", {"_class_name": "ZImageOmniPipeline"}, "has no family here"),
)
ORIGINALS = {
    "layers.2.attention.qkv": [f"layers.2.attention.{name}" for name in ("to_q", "to_k", "to_v")],
    "noise_refiner.0.attention.out": ["noise_refiner.0.attention.to_out.0"],
    "context_refiner.0.feed_forward.w1": ["context_refiner.0.feed_forward.w1"],
    "layers.0.adaLN_modulation.0": ["layers.0.adaLN_modulation.0"],
    "x_embedder": ["all_x_embedder.2-1"],
    "final_layer.linear": ["all_final_layer.2-1.linear"],
    "final_layer.adaLN_modulation.1": ["all_final_layer.2-1.adaLN_modulation.1"],
    "t_embedder.mlp.0": ["t_embedder.mlp.0"],
    "cap_embedder.1": ["cap_embedder.1"],
}
ZIMAGE = TinyZImage(
    save_zimage,
    # Of each block: q, k and v; the output; gate and value; the MLP's output.
    linears=4 * (LAYERS + REFINERS),
    kinds=2,
    contrasts=True,
    broken=BROKEN,
    layers=2,
    originals=ORIGINALS,
    unguided=0.0,
    threshold=1.3,
)
