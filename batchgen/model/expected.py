"""The tensors of a component's state dict, name → shape, from its configuration and without torch.

`tests/model/test_expected.py` compares them with the modules that diffusers and transformers build.
Names are those of the modules, but CLIP's are without `text_model.`, which transformers puts before
them in some versions and classes and not in others.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import prod

from batchgen.model.configs import (
    T5,
    Autoencoder,
    Clip,
    ClipWithProjection,
    Config,
    Flux2Transformer,
    Flux2Vae,
    FluxTransformer,
    Qwen3,
    SD3Transformer,
)

Shape = tuple[int, ...]
Tensors = Iterator[tuple[str, Shape]]

# Values of a time or guidance before it is embedded.
_SINUSOIDS = 256


def expected_tensors(config: Config) -> dict[str, Shape]:
    """Every tensor that a component's weight files have to hold."""
    match config:
        case FluxTransformer():
            return dict(_flux(config))
        case SD3Transformer():
            return dict(_sd3(config))
        case Flux2Transformer():
            return dict(_flux2(config))
        case Autoencoder():
            return dict(_vae(config))
        case Clip():
            return dict(_clip(config))
        case T5():
            return dict(_t5(config))
        case Qwen3():
            return dict(_qwen3(config))
    raise TypeError(f"no tensors are known of {type(config).__name__}")


def _flux(config: FluxTransformer) -> Tensors:
    width, head = config.width, config.attention_head_dim
    yield from _conditions(width, config.pooled_projection_dim, guidance=config.guidance_embeds)
    yield from _linear("context_embedder", width, config.joint_attention_dim)
    yield from _linear("x_embedder", width, config.in_channels)
    for block in range(config.num_layers):
        yield from _under(f"transformer_blocks.{block}", _joint_block(width, head, norms=True))
    for block in range(config.num_single_layers):
        yield from _under(f"single_transformer_blocks.{block}", _single_block(width, head))
    yield from _linear("norm_out.linear", 2 * width, width)
    yield from _linear("proj_out", config.in_channels, width)


def _flux2(config: Flux2Transformer) -> Tensors:
    width, inner, norms = config.width, config.inner, (config.attention_head_dim,)
    yield from _matrix("x_embedder", width, config.in_channels)
    yield from _matrix("context_embedder", width, config.joint_attention_dim)
    time = "time_guidance_embed.timestep_embedder"
    yield from _matrix(f"{time}.linear_1", width, config.timestep_guidance_channels)
    yield from _matrix(f"{time}.linear_2", width, width)
    for name, sets in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6)):
        yield from _matrix(f"{name}.linear", sets * width, width)
    yield from _matrix("single_stream_modulation.linear", 3 * width, width)
    for number in range(config.num_layers):
        block = f"transformer_blocks.{number}"
        for name in ("to_q", "to_k", "to_v", "to_out.0", "to_add_out"):
            yield from _matrix(f"{block}.attn.{name}", width, width)
        for name in ("add_q_proj", "add_k_proj", "add_v_proj"):
            yield from _matrix(f"{block}.attn.{name}", width, width)
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            yield f"{block}.attn.{name}.weight", norms
        for name in ("ff", "ff_context"):
            yield from _matrix(f"{block}.{name}.linear_in", 2 * inner, width)
            yield from _matrix(f"{block}.{name}.linear_out", width, inner)
    for number in range(config.num_single_layers):
        block = f"single_transformer_blocks.{number}.attn"
        yield from _matrix(f"{block}.to_qkv_mlp_proj", 3 * width + 2 * inner, width)
        yield from _matrix(f"{block}.to_out", width, width + inner)
        for name in ("norm_q", "norm_k"):
            yield f"{block}.{name}.weight", norms
    yield from _matrix("norm_out.linear", 2 * width, width)
    yield from _matrix("proj_out", config.in_channels, width)


def _sd3(config: SD3Transformer) -> Tensors:
    width, head, patch = config.width, config.attention_head_dim, config.patch_size
    yield "pos_embed.pos_embed", (1, config.pos_embed_max_size**2, width)
    yield from _convolution("pos_embed.proj", width, config.in_channels, patch)
    yield from _conditions(width, config.pooled_projection_dim, guidance=False)
    yield from _linear("context_embedder", width, config.joint_attention_dim)
    for block in range(config.num_layers):
        tensors = _joint_block(
            width,
            head,
            norms=config.qk_norm is not None,
            dual=block in config.dual_attention_layers,
            last=block == config.num_layers - 1,
        )
        yield from _under(f"transformer_blocks.{block}", tensors)
    yield from _linear("norm_out.linear", 2 * width, width)
    yield from _linear("proj_out", patch**2 * config.in_channels, width)


def _conditions(width: int, pooled: int, *, guidance: bool) -> Tensors:
    """Embedded time, guidance and pooled text."""
    inputs = {"timestep_embedder": _SINUSOIDS, "text_embedder": pooled}
    if guidance:
        inputs["guidance_embedder"] = _SINUSOIDS
    for name, into in inputs.items():
        yield from _linear(f"time_text_embed.{name}.linear_1", width, into)
        yield from _linear(f"time_text_embed.{name}.linear_2", width, width)


def _joint_block(
    width: int, head: int, *, norms: bool, dual: bool = False, last: bool = False
) -> Tensors:
    """A block of image and text tokens.

    :param norms: whether queries and keys are normalised.
    :param dual: whether image tokens attend among themselves too.
    :param last: of Stable Diffusion 3: its text goes no further.
    """
    yield from _linear("norm1.linear", (9 if dual else 6) * width, width)
    yield from _linear("norm1_context.linear", (2 if last else 6) * width, width)
    yield from _attention("attn", width, head, norms=norms)
    yield from _linear("attn.to_out.0", width, width)
    for name in ("add_q_proj", "add_k_proj", "add_v_proj", *(() if last else ("to_add_out",))):
        yield from _linear(f"attn.{name}", width, width)
    for name in ("norm_added_q", "norm_added_k") if norms else ():
        yield f"attn.{name}.weight", (head,)
    if dual:
        yield from _attention("attn2", width, head, norms=norms)
        yield from _linear("attn2.to_out.0", width, width)
    for name in ("ff",) if last else ("ff", "ff_context"):
        yield from _linear(f"{name}.net.0.proj", 4 * width, width)
        yield from _linear(f"{name}.net.2", width, 4 * width)


def _single_block(width: int, head: int) -> Tensors:
    """A block of FLUX.1 with one stream of tokens."""
    yield from _linear("norm.linear", 3 * width, width)
    yield from _attention("attn", width, head, norms=True)
    yield from _linear("proj_mlp", 4 * width, width)
    yield from _linear("proj_out", width, 5 * width)


def _attention(name: str, width: int, head: int, *, norms: bool) -> Tensors:
    for part in ("to_q", "to_k", "to_v"):
        yield from _linear(f"{name}.{part}", width, width)
    for part in ("norm_q", "norm_k") if norms else ():
        yield f"{name}.{part}.weight", (head,)


def _vae(config: Autoencoder) -> Tensors:
    channels, latent = config.block_out_channels, config.latent_channels
    decoder = config.decoder_channels
    yield from _under("encoder", _encoder(config))
    yield from _under("decoder", _decoder(config))
    for coder, wide, into, middle in (
        ("encoder", config.in_channels, channels[0], channels[-1]),
        ("decoder", latent, decoder[-1], decoder[-1]),
    ):
        yield from _convolution(f"{coder}.conv_in", into, wide, 3)
        yield from _under(
            f"{coder}.mid_block", _middle(middle, attention=config.mid_block_add_attention)
        )
    yield from _normalised("encoder.conv_norm_out", channels[-1])
    yield from _convolution("encoder.conv_out", 2 * latent, channels[-1], 3)
    yield from _normalised("decoder.conv_norm_out", decoder[0])
    yield from _convolution("decoder.conv_out", config.out_channels, decoder[0], 3)
    if config.use_quant_conv:
        yield from _convolution("quant_conv", 2 * latent, 2 * latent, 1)
    if config.use_post_quant_conv:
        yield from _convolution("post_quant_conv", latent, latent, 1)
    if isinstance(config, Flux2Vae):
        for name in ("running_mean", "running_var"):
            yield f"bn.{name}", (prod(config.patch_size) * latent,)


def _encoder(config: Autoencoder) -> Tensors:
    """The blocks in which pictures shrink: all but the last halve a side."""
    channels = config.block_out_channels
    for block, (into, out) in enumerate(pairwise((channels[0], *channels))):
        for layer in range(config.layers_per_block):
            resnet = f"down_blocks.{block}.resnets.{layer}"
            yield from _under(resnet, _resnet(out if layer else into, out))
        if block < len(channels) - 1:
            yield from _convolution(f"down_blocks.{block}.downsamplers.0.conv", out, out, 3)


def _decoder(config: Autoencoder) -> Tensors:
    """The blocks in which pictures grow: all but the last double a side."""
    channels = config.decoder_channels[::-1]
    for block, (into, out) in enumerate(pairwise((channels[0], *channels))):
        for layer in range(config.layers_per_block + 1):
            resnet = f"up_blocks.{block}.resnets.{layer}"
            yield from _under(resnet, _resnet(out if layer else into, out))
        if block < len(channels) - 1:
            yield from _convolution(f"up_blocks.{block}.upsamplers.0.conv", out, out, 3)


def _middle(width: int, *, attention: bool) -> Tensors:
    for layer in range(2):
        yield from _under(f"resnets.{layer}", _resnet(width, width))
    if attention:
        yield from _normalised("attentions.0.group_norm", width)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _linear(f"attentions.0.{part}", width, width)


def _resnet(into: int, out: int) -> Tensors:
    yield from _normalised("norm1", into)
    yield from _convolution("conv1", out, into, 3)
    yield from _normalised("norm2", out)
    yield from _convolution("conv2", out, out, 3)
    if into != out:
        yield from _convolution("conv_shortcut", out, into, 1)


def _clip(config: Clip) -> Tensors:
    width = config.hidden_size
    yield "embeddings.token_embedding.weight", (config.vocab_size, width)
    yield "embeddings.position_embedding.weight", (config.max_position_embeddings, width)
    for layer in range(config.num_hidden_layers):
        name = f"encoder.layers.{layer}"
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{name}.self_attn.{part}", width, width)
        for part in ("layer_norm1", "layer_norm2"):
            yield from _normalised(f"{name}.{part}", width)
        yield from _linear(f"{name}.mlp.fc1", config.intermediate_size, width)
        yield from _linear(f"{name}.mlp.fc2", width, config.intermediate_size)
    yield from _normalised("final_layer_norm", width)
    if isinstance(config, ClipWithProjection):
        yield "text_projection.weight", (config.projection_dim, width)


def _t5(config: T5) -> Tensors:
    width, inner = config.d_model, config.num_heads * config.d_kv
    gated = config.feed_forward_proj.startswith("gated-")
    yield "shared.weight", (config.vocab_size, width)
    for block in range(config.num_layers):
        attention, mlp = (f"encoder.block.{block}.layer.{layer}" for layer in range(2))
        for part in ("q", "k", "v"):
            yield f"{attention}.SelfAttention.{part}.weight", (inner, width)
        yield f"{attention}.SelfAttention.o.weight", (width, inner)
        if block == 0:
            shape = config.relative_attention_num_buckets, config.num_heads
            yield f"{attention}.SelfAttention.relative_attention_bias.weight", shape
        yield f"{attention}.layer_norm.weight", (width,)
        for part in ("wi_0", "wi_1") if gated else ("wi",):
            yield f"{mlp}.DenseReluDense.{part}.weight", (config.d_ff, width)
        yield f"{mlp}.DenseReluDense.wo.weight", (width, config.d_ff)
        yield f"{mlp}.layer_norm.weight", (width,)
    yield "encoder.final_layer_norm.weight", (width,)


def _qwen3(config: Qwen3) -> Tensors:
    """The layers that are used. All have the same tensors."""
    width, heads = config.hidden_size, config.num_attention_heads * config.head_dim
    groups = config.num_key_value_heads * config.head_dim
    bias = config.attention_bias
    yield "embed_tokens.weight", (config.vocab_size, width)
    for number in range(config.used_layers):
        layer = f"layers.{number}"
        for name, out, into in (
            ("q_proj", heads, width),
            ("k_proj", groups, width),
            ("v_proj", groups, width),
            ("o_proj", width, heads),
        ):
            yield from (_linear if bias else _matrix)(f"{layer}.self_attn.{name}", out, into)
        for name in ("q_norm", "k_norm"):
            yield f"{layer}.self_attn.{name}.weight", (config.head_dim,)
        for name in ("gate_proj", "up_proj"):
            yield from _matrix(f"{layer}.mlp.{name}", config.intermediate_size, width)
        yield from _matrix(f"{layer}.mlp.down_proj", width, config.intermediate_size)
        for name in ("input_layernorm", "post_attention_layernorm"):
            yield f"{layer}.{name}.weight", (width,)
    if config.used_layers == config.num_hidden_layers:
        yield "norm.weight", (width,)


def _under(prefix: str, tensors: Tensors) -> Tensors:
    return ((f"{prefix}.{name}", shape) for name, shape in tensors)


def _linear(name: str, out: int, into: int) -> Tensors:
    yield f"{name}.weight", (out, into)
    yield f"{name}.bias", (out,)


def _matrix(name: str, out: int, into: int) -> Tensors:
    """A linear without a bias."""
    yield f"{name}.weight", (out, into)


def _convolution(name: str, out: int, into: int, side: int) -> Tensors:
    yield f"{name}.weight", (out, into, side, side)
    yield f"{name}.bias", (out,)


def _normalised(name: str, width: int) -> Tensors:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)
