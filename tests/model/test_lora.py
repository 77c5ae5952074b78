"""A LoRA file is understood from its header: where it acts and how strongly, or why it is refused.

That spellings mean what other tools mean by them: `tests/engine/families/test_lora_spellings.py`.
"""

import json
import math
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from batchgen.errors import ModelError
from batchgen.model.checkpoint import resolve
from batchgen.model.lora import lora_files, read_lora
from batchgen.settings import Model
from tests.support.lora_files import KOHYA, PEFT

RANK = 4
NAME = "transformer_blocks.0.attn.to_q"
MODULE = f"transformer.{NAME}"
LINEARS = resolve(Model()).linears()


def pair(module: str, out: int = 128, into: int = 128, parts: tuple[str, str] = PEFT):
    """The two matrices of a module."""
    down, up = parts
    return {f"{module}.{down}": torch.ones(RANK, into), f"{module}.{up}": torch.ones(out, RANK)}


def write(folder: Path, content: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path = folder / "style.safetensors"
    save_file(content, path, metadata=metadata)
    return path


def adapter(**settings: object) -> dict[str, str]:
    """Metadata as diffusers writes it."""
    return {"lora_adapter_metadata": json.dumps(settings)}


def strength(folder: Path, module: str, metadata: dict[str, str], **tensors: Tensor) -> float:
    """The strength of a LoRA of rank 4 for one linear."""
    (addition,) = read_lora(write(folder, pair(module) | tensors, metadata), LINEARS)
    return addition.strength


@pytest.mark.parametrize("module", [MODULE, NAME, f"base_model.model.{NAME}"])
@pytest.mark.parametrize("place", ["bare", "of the component", "in the metadata itself"])
@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 1.0),
        ({"lora_alpha": 16}, 4.0),
        ({"lora_alpha": 16, "r": RANK}, 4.0),
        ({"lora_alpha": 16.0, "use_rslora": True}, 8.0),
        ({"lora_alpha": 16, "use_rslora": False, "use_dora": False}, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {"attn.to_q": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {f"^{NAME}": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {r"blocks\.\d+\.attn\.to_q": 2}}, 4.0),
        ({"lora_alpha": 16, "alpha_pattern": {r".*\d+\.attn\.to_q": 2}}, 0.5),
        ({"lora_alpha": 16, "alpha_pattern": {"to_k": 2, "o_q": 2}}, 4.0),
        ({"lora_alpha": 16, "r": 8, "rank_pattern": {"to_q": RANK}}, 4.0),
        ({"lora_alpha": 16, "rank_pattern": None, "alpha_pattern": None}, 4.0),
        ({"lora_alpha": -8}, -2.0),
    ],
)
def test_names_and_settings_act_with_and_without_their_component(
    tmp_path: Path, module: str, place: str, settings: dict[str, object], expected: float
) -> None:
    if place == "in the metadata itself":
        metadata = {key: json.dumps(value) for key, value in settings.items()}
    else:
        prefix = "" if place == "bare" else "transformer."
        metadata = adapter(**{f"{prefix}{key}": value for key, value in settings.items()})
    assert strength(tmp_path, module, metadata) == expected


def test_settings_of_one_component_do_not_act_on_another(tmp_path: Path) -> None:
    metadata = adapter(**{"text_encoder.lora_alpha": 16, "transformer.lora_alpha": 8})
    content = pair(MODULE) | pair("text_encoder.text_model.encoder.layers.0.mlp.fc1", 256, 64)
    found = {
        each.module: each.strength
        for each in read_lora(write(tmp_path, content, metadata), LINEARS)
    }
    assert list(found.values()) == [4.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_a_modules_own_alpha_comes_first(
    tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    alpha = {f"{MODULE}.alpha": torch.full(shape, 2).to(dtype)}
    content = pair(MODULE) | alpha
    (addition,) = read_lora(write(tmp_path, content, adapter(lora_alpha=16)), LINEARS)
    assert addition.strength == 0.5


def test_the_settings_that_peft_writes_beside_its_file_act_and_are_part_of_the_identity(
    tmp_path: Path,
) -> None:
    path = write(tmp_path, pair(f"base_model.model.{NAME}"))
    assert lora_files(path) == [path]
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 16}))
    assert lora_files(path) == [path, config]
    assert read_lora(path, LINEARS)[0].strength == 4.0
    model = Model.model_validate({"lora": [{"path": str(path)}]})
    before = resolve(model).identity
    config.write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 8}))
    assert resolve(model).identity != before
    config.write_text("not JSON")
    with pytest.raises(ModelError, match=r"adapter_config\.json: cannot be read as JSON"):
        resolve(model)


def test_settings_beside_a_file_of_another_tool_are_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"lora_alpha": 16}')
    assert strength(tmp_path, MODULE, {}) == 1.0


# What peft writes for a plain LoRA: nothing of this changes the product.
PLAIN = {
    "auto_mapping": None,
    "base_model_name_or_path": "black-forest-labs/FLUX.1-dev",
    "bias": "none",
    "corda_config": None,
    "fan_in_fan_out": False,
    "init_lora_weights": "gaussian",
    "layer_replication": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": RANK,
    "target_modules": ["to_q", "to_k"],
    "task_type": None,
    "use_qalora": False,
    "a_setting_of_the_future": False,
}


def test_the_other_settings_of_a_plain_lora_are_accepted(tmp_path: Path) -> None:
    assert strength(tmp_path, MODULE, adapter(**PLAIN)) == 2.0


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("bias", "all"),
        ("lora_bias", True),
        ("modules_to_save", ["proj_out"]),
        ("layer_replication", [[0, 4], [2, 5]]),
        ("use_qalora", True),
        ("peft_type", "LOHA"),
        ("a_setting_of_the_future", True),
    ],
)
def test_a_setting_that_batchgen_does_not_apply_is_refused(
    tmp_path: Path, key: str, value: object
) -> None:
    with pytest.raises(ModelError, match=rf"{key} = .*does not apply it; merge"):
        strength(tmp_path, MODULE, adapter(**PLAIN | {key: value}))


def test_dora_is_refused_wherever_its_setting_stands(tmp_path: Path) -> None:
    for metadata in (
        adapter(use_dora=True),
        adapter(**{"transformer.use_dora": True}),
        {"use_dora": "True"},
    ):
        for module in (MODULE, NAME):
            with pytest.raises(ModelError, match=r"DoRA.*merge it into the checkpoint"):
                strength(tmp_path, module, metadata)


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"lora_adapter_metadata": "{"}, "lora_adapter_metadata is not JSON"),
        ({"lora_adapter_metadata": ""}, "lora_adapter_metadata is not JSON"),
        ({"lora_adapter_metadata": "[" * 99_999}, "lora_adapter_metadata is not JSON"),
        ({"lora_adapter_metadata": "null"}, "is 'null': expected an object"),
        ({"lora_adapter_metadata": "[1]"}, r"is '\[1\]': expected an object"),
        ({"lora_adapter_metadata": '{"r": 4, "r": 8}'}, "not JSON: a key stands twice: r, r"),
        ({"lora_alpha": "none"}, "lora_alpha is not JSON"),
        (adapter(lora_alpha=None), "lora_alpha = None: expected a number"),
        (adapter(lora_alpha="8"), "lora_alpha = '8': expected a number"),
        (adapter(lora_alpha=True), "lora_alpha = True: expected a number"),
        (adapter(lora_alpha=math.nan), "lora_alpha = nan: expected a number"),
        (adapter(lora_alpha=math.inf), "lora_alpha = inf: expected a number"),
        (adapter(lora_alpha=0), "has alpha 0"),
        (adapter(use_rslora=None), "use_rslora = None: expected true or false"),
        (adapter(use_rslora=1), "use_rslora = 1: expected true or false"),
        (adapter(use_dora="yes"), "use_dora = 'yes': expected true or false"),
        (adapter(use_rslora=True), "has use_rslora, but no lora_alpha"),
        (adapter(alpha_pattern=[1]), r"alpha_pattern = \[1\]: expected numbers by module"),
        (adapter(alpha_pattern={"to_q": None}), "expected numbers by module"),
        (adapter(alpha_pattern={"to_q(": 2}), r"the pattern 'to_q\(' is not one"),
        (adapter(alpha_pattern={"(.*)*(.*)*x": 2}), "repeats more than 2 things"),
        (adapter(rank_pattern={"to_q": 0}), "expected whole numbers by module"),
        (adapter(r=8), "has rank 4, and its settings say 8"),
        (adapter(r=RANK, rank_pattern={"to_q": 8}), "has rank 4, and its settings say 8"),
        (adapter(r=0), "r = 0: expected a whole number over 0"),
        (adapter(**{"unet.lora_alpha": 8}), "'unet', which no model here has"),
        (
            adapter(**{"lora_alpha": 8, "transformer.lora_alpha": 4}),
            "lora_alpha is 4, and elsewhere 8",
        ),
        ({**adapter(lora_alpha=8), "lora_alpha": "4"}, "lora_alpha is 4, and elsewhere 8"),
    ],
)
def test_settings_that_are_none_are_refused(
    tmp_path: Path, metadata: dict[str, str], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint):
        strength(tmp_path, MODULE, metadata)


def test_patterns_cannot_find_kohyas_names(tmp_path: Path) -> None:
    content = pair("lora_transformer_transformer_blocks_0_attn_to_q", parts=KOHYA)
    path = write(tmp_path, content, adapter(lora_alpha=8, alpha_pattern={"attn.to_q": 2}))
    with pytest.raises(ModelError, match="patterns for names of peft's kind, and lora_tr"):
        read_lora(path, LINEARS)


BFL_QUERY = "lora_unet_double_blocks_0_img_attn_qkv"
REFUSED = {
    "DoRA": ({f"{MODULE}.dora_scale": torch.ones(128, 1)}, "dora_scale.*a DoRA's; merge"),
    "DoRA of peft": ({f"{MODULE}.lora_magnitude_vector": torch.ones(128)}, "a DoRA's; merge"),
    "LoHa": ({f"{BFL_QUERY}.hada_w1_a": torch.ones(4, 4)}, "hada_w1_a.*no product of two"),
    "LoKr": ({f"{BFL_QUERY}.lokr_w1": torch.ones(4, 4)}, "lokr_w1.*no product of two"),
    "OFT": ({f"{BFL_QUERY}.oft_blocks": torch.ones(4, 4)}, "oft_blocks.*no product of two"),
    "bias of ComfyUI": ({f"{BFL_QUERY}.diff_b": torch.ones(4)}, "diff_b.*change of a bias"),
    "bias of peft": ({f"{MODULE}.lora_B.bias": torch.ones(4)}, "a change of a bias"),
    "bias of the model": ({f"base_model.model.{NAME}.bias": torch.ones(4)}, "a change of a bias"),
    "whole weight": ({f"{BFL_QUERY}.diff": torch.ones(4)}, "a change of a whole weight"),
    "norm": (
        {"double_blocks.0.img_attn.norm.query_norm.scale": torch.ones(4)},
        "a change of a whole weight",
    ),
    "saved module": (
        {"base_model.model.proj_out.weight": torch.ones(64, 128)},
        "proj_out.weight.*no plain LoRA weight",
    ),
    "another adapter": ({f"{NAME}.lora_A.mine.weight": torch.ones(4, 4)}, "of another name"),
    "embedding": ({"x.lora_embedding_A": torch.ones(4, 4)}, "a change of an embedding"),
    "scale of 8 bits": ({f"{NAME}.scale_weight": torch.ones(1)}, "a scale of quantized weights"),
    "anything": ({"steps": torch.ones(1)}, "holds steps, which would stay unapplied"),
    "convolution": (
        {
            f"{MODULE.replace('to_q', 'to_k')}.lora_A.weight": torch.ones(4, 8, 3, 3),
            f"{MODULE.replace('to_q', 'to_k')}.lora_B.weight": torch.ones(8, 4, 1, 1),
        },
        "is a convolution",
    ),
    "a matrix alone": ({f"{NAME[:-1]}k.lora_A.weight": torch.ones(4, 128)}, "one of its two"),
    "alpha alone": ({f"{NAME[:-1]}k.alpha": torch.ones(())}, "its two matrices, or none"),
    "two spellings": (pair(BFL_QUERY, 384, parts=KOHYA), "both change transformer.transformer_b"),
    "two names of a matrix": (
        {f"{MODULE}.lora_down.weight": torch.ones(4, 128)},
        "are the same matrix",
    ),
    "no product": (
        {f"{NAME[:-1]}k.{part}": torch.ones(3, 128) for part in PEFT},
        "is no product of matrices",
    ),
    "another size": (pair(f"{NAME[:-1]}k", 256), r"is \(256, 128\), the model's \(128, 128\)"),
    "a block too many": (pair("transformer_blocks.9.attn.to_q"), "names no linear of this model"),
    "an embedding's linear": (
        pair("text_encoder.text_model.embeddings.token_embedding", 48, 64),
        "names no linear of this model",
    ),
    "another encoder": (pair("lora_te3_encoder_block_9_layer_0_SelfAttention_q"), "no linear of"),
    "Stable Diffusion XL": (
        pair("lora_unet_down_blocks_0_attentions_0_proj_in", parts=KOHYA),
        "made for Stable Diffusion 1, 2 or XL, and the model is a FLUX.1",
    ),
    "Stable Diffusion 3": (
        pair("lora_unet_joint_blocks_0_x_block_attn_qkv", 384, parts=KOHYA),
        "made for Stable Diffusion 3, and the model is a FLUX.1",
    ),
    "alpha of NaN": ({f"{MODULE}.alpha": torch.tensor(math.nan)}, "has alpha nan"),
    "alpha of 0": ({f"{MODULE}.alpha": torch.zeros(1)}, "has alpha 0"),
    "many alphas": ({f"{MODULE}.alpha": torch.ones(2)}, r"has shape \[2\]; expected one number"),
    "alpha of bytes": ({f"{MODULE}.alpha": torch.ones(1).byte()}, "has type U8"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_would_stay_unapplied_is_refused_by_name_at_plan(tmp_path: Path, kind: str) -> None:
    content, complaint = REFUSED[kind]
    path = write(tmp_path, pair(MODULE) | content)
    with pytest.raises(ModelError, match=complaint) as refusal:
        resolve(Model.model_validate({"lora": [{"path": str(path)}]}))
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.bool])
def test_matrices_of_whole_numbers_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    content = {name: tensor.to(dtype) for name, tensor in pair(MODULE).items()}
    with pytest.raises(ModelError, match="has numbers of type"):
        read_lora(write(tmp_path, content), LINEARS)


FLOATS = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e5m2, torch.float8_e4m3fn),
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("part", PEFT)
def test_numbers_that_are_not_finite_are_found_in_every_type(
    tmp_path: Path, dtype: torch.dtype, part: str
) -> None:
    largest = torch.finfo(dtype).max
    content = {name: tensor.to(dtype) for name, tensor in pair(MODULE).items()}
    for number in (-largest, largest, torch.finfo(dtype).tiny, 0.0):
        content[f"{MODULE}.{part}"].view(-1)[5] = number
        read_lora(write(tmp_path, content), LINEARS)
    infinite = () if dtype == torch.float8_e4m3fn else (math.inf, -math.inf)  # it has none
    for number in (math.nan, -math.nan, *infinite):
        content[f"{MODULE}.{part}"].view(-1)[5] = number
        with pytest.raises(ModelError, match=rf"{part} holds numbers that are NaN or infinite"):
            read_lora(write(tmp_path, content), LINEARS)


def test_a_lora_of_no_rank_or_of_nothing_is_refused(tmp_path: Path) -> None:
    down, up = (f"{MODULE}.{part}" for part in PEFT)
    with pytest.raises(ModelError, match="has rank 0"):
        read_lora(write(tmp_path, {down: torch.ones(0, 128), up: torch.ones(128, 0)}), LINEARS)
    with pytest.raises(ModelError, match="holds no LoRA weights"):
        read_lora(write(tmp_path, {}), LINEARS)


def test_what_is_no_lora_file_is_named(tmp_path: Path) -> None:
    whole = write(tmp_path, pair(MODULE)).read_bytes()
    path = tmp_path / "other.safetensors"
    for content, complaint in (
        (b"", "not a safetensors file but an empty one"),
        (whole[:-1], "not a whole safetensors file"),
        (whole[:20], "not a whole safetensors file"),
        (b"PK\x03\x04" * 9, "a pickled PyTorch file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ):
        path.write_bytes(content)
        with pytest.raises(ModelError, match=complaint):
            lora_files(path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="not a regular file"):
        lora_files(tmp_path / "pipe")
    with pytest.raises(ModelError, match=r"a folder; .* it holds .*other\.safetensors"):
        lora_files(tmp_path)
    with pytest.raises(ModelError, match=r"no such file; .*hf download"):
        lora_files(Path("org/name"))
