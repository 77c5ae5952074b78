"""8-bit linears: as exact as their numbers allow, each token by itself, no linear left out."""

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import nn
from torch._dynamo import mark_dynamic
from torch._inductor.compile_fx import compile_fx
from transformers import T5EncoderModel

from batchgen.engine.attention.fuse import find_attentions, fuse_projections
from batchgen.engine.modulation import hoist_modulations
from batchgen.engine.precision.quantize import (
    Format,
    choose_format,
    is_quantized,
    quantize_blocks,
    quantize_linear,
    quantize_text,
)
from batchgen.errors import JobError, ModelError
from batchgen.model import TINY

CPU = torch.device("cpu")
KINDS = ("fp8", "int8")
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture(autouse=True)
def _inference():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def make_linear(how, inside=256, outside=384, dtype=torch.float32):
    """The same linear twice: as it is, and quantized."""
    plain = nn.Linear(inside, outside, dtype=dtype)
    quantized = nn.Linear(inside, outside, dtype=dtype)
    quantized.load_state_dict(plain.state_dict())
    quantize_linear(quantized, how)
    return plain, quantized


def load_tiny(**changes):
    """The embedded transformer and its blocks, in order."""
    transformer = (
        FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer", **changes)
        .eval()
        .requires_grad_(requires_grad=False)
    )
    return transformer, [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def load_engine_blocks():
    """The embedded blocks, which take their modulation as input, and how wide that is for each."""
    _, blocks = load_tiny()
    modulations = hoist_modulations(blocks).blocks
    return blocks, [sum(linear.out_features for linear in block) for block in modulations]


def make_inputs(pictures, width):
    """Random inputs of a block of the embedded model, with 64 image and 32 text tokens."""
    return {
        "hidden_states": torch.randn(pictures, 64, 128),
        "encoder_hidden_states": torch.randn(pictures, 32, 128),
        "temb": torch.randn(pictures, width) / 2,
        "image_rotary_emb": (torch.randn(96, 32), torch.randn(96, 32)),
    }


def picture(inputs, number):
    """The inputs of one picture alone; all share the rotary embedding."""
    return {
        name: value if isinstance(value, tuple) else value[number : number + 1]
        for name, value in inputs.items()
    }


def distance(one, other):
    return ((one.double() - other.double()).norm() / other.double().norm()).item()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("kind", "low", "high"), [("fp8", 0.030, 0.042), ("int8", 0.005, 0.015)])
def test_a_linear_is_off_by_what_its_numbers_cannot_hold(kind, low, high, dtype):
    how = choose_format(kind, "row", CPU)
    plain, quantized = make_linear(how, dtype=dtype)
    x = torch.randn(4, 96, 256, dtype=dtype)
    y = quantized(x)
    assert (y.dtype, y.shape) == (dtype, (4, 96, 384))
    bits = 2 if how.reduced else 1  # the same range in half as many steps
    assert bits * low < distance(y, plain(x)) < bits * high


def test_the_int8_product_is_exact_for_every_number_that_is_used():
    """The extremes of both factors in any mixture, on processors that saturate as well."""
    low, high = (-64, 63) if choose_format("int8", "row", CPU).reduced else (-128, 127)
    extremes = torch.tensor([low, low + 1, 0, high], dtype=torch.int8)
    for rows in (1, 5, 17, 96):
        a, b = (extremes[torch.randint(4, (count, 256))] for count in (rows, 48))
        for weight in (b.T, b.T.contiguous()):
            assert torch.equal(torch._int_mm(a, weight).long(), a.long() @ b.T.long())
    alike = extremes[:, None].expand(4, 64).contiguous()
    assert torch.equal(torch._int_mm(alike, alike.T).long(), alike.long() @ alike.T.long())


@pytest.mark.parametrize(
    ("kind", "largest", "number"), [("fp8", 448, torch.float8_e4m3fn), ("int8", 127.5, torch.int8)]
)
def test_a_linear_is_the_formula(kind, largest, number):
    how = choose_format(kind, "row", CPU)
    plain, quantized = make_linear(how)
    if how.reduced:
        largest = 63.5
    x = torch.randn(96, 256) * torch.logspace(-3, 3, 96)[:, None]

    def pack(rows):
        scale = rows.abs().amax(1, keepdim=True) / largest
        values = (
            rows / scale
            if kind == "fp8"
            else (rows * (1 / scale)).round().clamp(-largest - 0.5, largest - 0.5)
        )
        return values.to(number).double(), scale.double()

    (q_x, s_x), (q_w, s_w) = pack(x), pack(plain.weight)
    expected = s_x * s_w.T * (q_x @ q_w.T)
    error = (quantized(x).double() - plain.bias - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-4  # without rounding to 8 bits it would be 1e-2 or more


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_per_row_a_token_is_the_same_bits_alone_in_a_batch_and_on_either_of_two_ranks(kind, dtype):
    _, quantized = make_linear(choose_format(kind, "row", CPU), dtype=dtype)
    x = torch.randn(8, 96, 256, dtype=dtype)
    x[3] *= 100
    y = quantized(x)
    assert torch.equal(y, torch.cat([quantized(one) for one in x.split(1)]))
    assert torch.equal(y, torch.cat([quantized(half) for half in x.chunk(2, dim=1)], dim=1))
    assert torch.equal(y, torch.cat([quantized(part) for part in x.split([89, 7], dim=1)], dim=1))


def test_per_tensor_a_token_depends_on_its_neighbours():
    plain, quantized = make_linear(Format("fp8", "tensor"), 64, 64)
    x = torch.randn(2, 16, 64)
    x[1, 15] *= 4
    y = quantized(x)
    assert distance(y, plain(x)) < 0.05
    assert not torch.equal(y[:1], quantized(x[:1]))
    assert not torch.equal(y[:, :8], quantized(x[:, :8]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", [0, 2])  # a double block, a single one
def test_per_row_a_block_gives_a_picture_the_same_bits_alone_and_among_eight(kind, number):
    blocks, widths = load_engine_blocks()
    quantize_blocks([blocks[number]], choose_format(kind, "row", CPU))
    inputs = make_inputs(8, widths[number])
    together = blocks[number](**inputs)
    for place in range(8):
        for whole, alone in zip(together, blocks[number](**picture(inputs, place)), strict=True):
            assert torch.equal(whole[place : place + 1], alone)


def test_per_tensor_a_block_gives_a_picture_other_bits_among_eight():
    blocks, widths = load_engine_blocks()
    for module in blocks[2].modules():
        if type(module) is nn.Linear:
            quantize_linear(module, Format("fp8", "tensor"))
    inputs = make_inputs(8, widths[2])
    # oneDNN's reference kernel would take seconds.
    with torch.backends.mkldnn.flags(enabled=False):
        together, alone = blocks[2](**inputs), blocks[2](**picture(inputs, 0))
    assert not torch.equal(together[1][:1], alone[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_nan_spoils_its_own_token_only(kind):
    _, quantized = make_linear(choose_format(kind, "row", CPU))
    x = torch.randn(2, 32, 256)
    expected = quantized(x)
    x[1, 5, 7] = torch.nan
    y = quantized(x)
    assert y[1, 5].isnan().all()
    y[1, 5] = expected[1, 5]
    assert torch.equal(y, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_give_the_bias_and_a_weight_of_zeros_too(kind):
    plain, quantized = make_linear(choose_format(kind, "row", CPU))
    assert torch.equal(quantized(torch.zeros(32, 256)), plain.bias.expand(32, -1))
    plain.weight.zero_()
    quantize_linear(plain, choose_format(kind, "row", CPU))
    assert torch.equal(plain(torch.randn(32, 256)), plain.bias.expand(32, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_the_embedded_model_is_quantized_in_its_blocks_and_nowhere_else(kind):
    transformer, blocks = load_tiny()
    inputs = make_inputs(2, 64)
    words = {
        "hidden_states": torch.randn(2, 64, 64),
        "encoder_hidden_states": inputs["encoder_hidden_states"][..., :64],
        "pooled_projections": torch.randn(2, 64),
        "timestep": torch.tensor([0.9, 0.3]),
        "guidance": torch.tensor([3.5, 2.0]),
        "img_ids": torch.zeros(64, 3),
        "txt_ids": torch.zeros(32, 3),
    }
    expected = transformer(**words).sample
    assert quantize_blocks(blocks, choose_format(kind, "row", CPU)) == 2 * 12 + 4 * 5
    packed = {name for name, weight in transformer.named_parameters() if is_quantized(weight)}
    assert len(packed) == 44
    assert all("transformer_blocks." in name and "norm" not in name for name in packed)
    assert 0.001 < distance(transformer(**words).sample, expected) < 0.10


@pytest.mark.slow
@pytest.mark.parametrize(("fused", "count"), [(False, 418), (True, 228)])
def test_all_linears_of_flux_dev_are_quantized_but_its_76_modulations(fused, count):
    with torch.device("meta"):
        transformer = FluxTransformer2DModel(
            num_layers=19,
            num_single_layers=38,
            attention_head_dim=128,
            num_attention_heads=24,
            joint_attention_dim=4096,
            guidance_embeds=True,
            axes_dims_rope=(16, 56, 56),
        )
    blocks = [*transformer.transformer_blocks, *transformer.single_transformer_blocks]
    if fused:
        fuse_projections(blocks, find_attentions(blocks))
    everything = sum(
        isinstance(module, nn.Linear) for block in blocks for module in block.modules()
    )
    assert quantize_blocks(blocks, choose_format("fp8", "row", CPU)) == count == everything - 76


@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_module_can_be_moved_outside_of_inference_mode(kind):
    _, quantized = make_linear(choose_format(kind, "row", CPU))
    with torch.inference_mode(mode=False):
        quantized.to("meta")
    assert {quantized.weight.qdata.device.type, quantized.weight.scale.device.type} == {"meta"}


def test_a_linear_of_an_odd_size_is_named_and_nothing_is_changed():
    _, blocks = load_tiny()
    blocks[4].proj_mlp = nn.Linear(128, 500)
    told = "Block 4: proj_mlp, Linear 500×128: 8-bit products need multiples of 16"
    with pytest.raises(ModelError, match=told):
        quantize_blocks(blocks, choose_format("fp8", "row", CPU))
    assert not any(is_quantized(weight) for block in blocks for weight in block.parameters())


@pytest.mark.parametrize(
    "stranger", [nn.Conv1d(128, 512, 1), type("Adapted", (nn.Linear,), {})(128, 512)]
)
def test_a_matrix_that_is_no_plain_linear_is_named(stranger):
    _, blocks = load_tiny()
    blocks[4].proj_mlp = stranger
    name = type(stranger).__name__
    told = rf"4: proj_mlp, {name} 512×128.*: not a linear that can be quantized"
    with pytest.raises(ModelError, match=told):
        quantize_blocks(blocks, choose_format("fp8", "row", CPU))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_text_encoder_keeps_only_its_weights_in_8_bits(kind, dtype):
    encoder = T5EncoderModel.from_pretrained(TINY / "text_encoder_2", dtype=dtype).eval()
    tokens = torch.randint(0, encoder.config.vocab_size, (2, 32))
    expected = encoder(tokens).last_hidden_state
    assert quantize_text(encoder, kind) == 7 * encoder.config.num_layers
    states = encoder(tokens).last_hidden_state
    assert states.dtype == dtype
    assert 0.0005 < distance(states, expected) < 0.10


def test_a_text_encoder_without_linears_is_refused():
    with pytest.raises(ModelError, match="Embedding holds no linear"):
        quantize_text(nn.Embedding(4, 4), "fp8")


def test_a_device_that_does_not_multiply_so_is_refused():
    with pytest.raises(JobError, match="reference kernel"):
        choose_format("fp8", "tensor", CPU)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_compiled_block_is_one_graph_for_all_numbers_of_rows_and_equals_the_eager_one(kind):
    """Equal up to 0.5% of the norm, where FP8 itself costs 4%.

    In fp32, sums in another order tip the few numbers that are at a rounding threshold. Of numbers
    that are twice as far apart half as many tip, each by twice as much: √2 in the norm.
    """
    blocks, widths = load_engine_blocks()
    singles = blocks[2:]
    how = choose_format(kind, "row", CPU)
    quantize_blocks(singles, how)
    high = 5e-3 * (2**0.5 if how.reduced else 1)
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return compile_fx(graph, inputs)

    compiled = torch.compile(
        lambda block, inputs: [x.clone() for x in block(**inputs)], fullgraph=True, backend=backend
    )
    for rows in (2, 5, 3):
        for block in singles:
            inputs = make_inputs(rows, widths[2])
            for name in ("hidden_states", "encoder_hidden_states", "temb"):
                mark_dynamic(inputs[name], 0)
            for one, other in zip(compiled(block, inputs), block(**inputs), strict=True):
                assert distance(one, other) < high
    assert len(graphs) == 1


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("kind", "high"), [("fp8", 0.045), ("int8", 0.02)])
def test_on_a_gpu_a_linear_is_as_exact_and_each_token_by_itself(kind, high):
    linears = make_linear(Format(kind), 3072, 3072, torch.bfloat16)
    plain, quantized = (linear.cuda() for linear in linears)
    x = torch.randn(4, 512, 3072, dtype=torch.bfloat16, device="cuda")
    y = quantized(x)
    assert distance(y, plain(x)) < high
    assert torch.equal(y, torch.cat([quantized(one) for one in x.split(1)]))
