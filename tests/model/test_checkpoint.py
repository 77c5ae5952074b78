"""A model that cannot be used is refused at planning, with the file and the remedy."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import load_file, save_file

from batchgen.engine import open_engine
from batchgen.errors import ModelError
from batchgen.model import weights
from batchgen.model.checkpoint import Checkpoint, resolve, wanted
from batchgen.settings.job import Model
from tests.support.stock import PROMPTS, make_job

FLUX_DEV = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
}


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_planning_with_a_model_imports_no_torch():
    script = (
        "import sys; from batchgen.model import resolve; from batchgen.settings import Model; c = resolve(Model()); c.token_counter()('x');"
        "c.flops(128, 128, 4, 32, False); print(c.family, {'torch', 'transformers', 'diffusers'} & set(sys.modules))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "flux set()"
    )


def test_the_embedded_model_and_its_copy_have_one_identity(model_folder):
    assert resolve(Model(path="tiny")).identity == resolve(Model(path=str(model_folder))).identity


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "tokenizer_2/tokenizer.json"])
def test_a_changed_file_changes_the_identity(model_folder, file):
    before = resolve(Model(path=str(model_folder))).identity
    path = model_folder / file
    path.write_text(path.read_text() + " ")
    after = resolve(Model(path=str(model_folder))).identity
    assert {name for name in before if before[name] != after[name]} == {file}


def test_a_large_file_is_sampled_and_retrained_weights_show(tmp_path):
    tensor = torch.randn(1200, 1200)
    assert tensor.nbytes > weights.WHOLE_BYTES
    for name, values in (("one", tensor), ("same", tensor), ("other", tensor * 1.001)):
        save_file({"weight": values}, tmp_path / f"{name}.safetensors")
    one, same, other = (
        weights.digest(tmp_path / f"{name}.safetensors") for name in ("one", "same", "other")
    )
    assert one == same != other
    assert one.startswith("sampled:")


def test_tokens_are_counted_as_the_text_encoder_sees_them(dev):
    stock, _ = dev
    count = resolve(Model()).token_counter()
    for prompt in [*PROMPTS, "", "unknown words, and punctuation!", "a red circle " * 50]:
        assert count(prompt) == len(stock.tokenizer_2(prompt).input_ids)


def test_flops_of_flux_dev_at_1024_px_are_74_tera_a_step(model_folder):
    edit(model_folder / "transformer" / "config.json", **FLUX_DEV)
    checkpoint = Checkpoint(model_folder, "flux", "", {})
    assert checkpoint.pixel_multiple == 16
    assert checkpoint.flops(1024, 1024, 1, 512, cfg=False) == pytest.approx(
        59.5e12 + 14.9e12, rel=0.002
    )
    assert checkpoint.flops(1024, 1024, 28, 512, cfg=True) == pytest.approx(
        2 * 28 * 74.4e12, rel=0.002
    )


@pytest.mark.parametrize("path", ["no/such/model/here", "./missing", "~/missing-model", "missing"])
def test_an_unknown_path_lists_what_is_accepted(path):
    with pytest.raises(ModelError, match=r'"tiny" \(embedded\), a folder .* hub id'):
        resolve(Model(path=path))


def test_a_hub_out_of_reach_says_how_to_bring_the_model(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hf download someone/some-model --local-dir FOLDER"):
        resolve(Model(path="someone/some-model"))


def test_a_revision_of_a_folder_is_refused():
    with pytest.raises(ModelError, match="applies to hub ids only"):
        resolve(Model(path="tiny", revision="main"))


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"holds no model_index\.json"):
        resolve(Model(path=str(tmp_path)))


def test_a_pipeline_class_without_a_family_is_refused(model_folder):
    edit(model_folder / "model_index.json", _class_name="WanPipeline")
    with pytest.raises(ModelError, match="'WanPipeline' has no family here; known: FluxPipeline"):
        resolve(Model(path=str(model_folder)))


def test_a_missing_component_is_named(model_folder):
    (model_folder / "vae").rename(model_folder / "elsewhere")
    with pytest.raises(ModelError, match="names vae/, which is missing"):
        resolve(Model(path=str(model_folder)))


def test_pickled_weights_are_refused_with_a_remedy(model_folder):
    (model_folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        model_folder / "vae" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(ModelError, match=r"vae: no \.safetensors weights.*save_pretrained"):
        resolve(Model(path=str(model_folder)))


def test_a_quantized_checkpoint_is_refused(model_folder):
    edit(
        model_folder / "transformer" / "config.json",
        quantization_config={"quant_method": "bitsandbytes"},
    )
    with pytest.raises(ModelError, match="transformer: an already quantized checkpoint"):
        resolve(Model(path=str(model_folder)))


def test_weights_that_would_be_filled_with_random_numbers_are_refused(model_folder):
    path = model_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["proj_out.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    job = make_job(model_folder)
    with pytest.raises(
        ModelError,
        match=r"1 weights of FluxTransformer2DModel are missing or of another shape: proj_out\.weight",
    ):
        open_engine(job, resolve(job.model))


def test_weights_cut_short_are_refused(model_folder):
    path = model_folder / "transformer" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ModelError,
        match=r"diffusion_pytorch_model\.safetensors: has \d+ bytes, its header promises \d+",
    ):
        resolve(Model(path=str(model_folder)))


def test_a_missing_part_of_sharded_weights_is_named(model_folder):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (model_folder / "text_encoder_2" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"model-00001-of-00002\.safetensors missing"):
        resolve(Model(path=str(model_folder)))


HUB = {  # of stabilityai/stable-diffusion-3.5-medium: what its folders hold, and whether loading reads it
    "model_index.json": True,
    "sd3.5_medium.safetensors": False,
    "text_encoders/t5xxl_fp8_e4m3fn.safetensors": False,
    "scheduler/scheduler_config.json": True,
    "text_encoder/config.json": True,
    "text_encoder/model.safetensors": True,
    "text_encoder/model.fp16.safetensors": False,
    "text_encoder_3/model-00001-of-00002.safetensors": True,
    "text_encoder_3/model-00002-of-00002.safetensors": True,
    "text_encoder_3/model.fp16-00001-of-00002.safetensors": False,
    "text_encoder_3/model.safetensors.index.json": True,
    "tokenizer/merges.txt": True,
    "tokenizer_3/spiece.model": True,
    "transformer/diffusion_pytorch_model.safetensors": True,
    "transformer/diffusion_pytorch_model.bin": False,
    "vae/diffusion_pytorch_model.fp16.safetensors": False,
    "vae/flax_model.msgpack": False,
}


def test_of_a_hub_repository_what_loading_reads_is_fetched_and_nothing_twice():
    components = {name.split("/")[0] for name in HUB if "/" in name} - {"text_encoders"}
    fetched = set(filter_repo_objects(HUB, allow_patterns=wanted(components)))
    assert fetched == {name for name, read in HUB.items() if read}


def test_weights_that_are_never_loaded_are_no_part_of_the_identity(model_folder):
    before = resolve(Model(path=str(model_folder)))
    for component in ("vae", "text_encoder_2"):
        for name in (
            "model.fp16.safetensors",
            "model.fp16-00001-of-00002.safetensors",
            "flax_model.msgpack",
        ):
            (model_folder / component / name).write_text("not even safetensors")
    (model_folder / "text_encoder_2" / "model.fp16.safetensors.index.json").write_text(
        '{"weight_map": {"a": "absent.safetensors"}}'
    )
    after = resolve(Model(path=str(model_folder)))
    assert {name for name in after.identity if name not in before.identity} == {
        "text_encoder_2/model.fp16.safetensors.index.json"
    }
    assert before.tensors("vae") == after.tensors("vae")


def test_a_component_with_variants_alone_is_refused(model_folder):
    (model_folder / "vae" / "diffusion_pytorch_model.safetensors").rename(
        model_folder / "vae" / "diffusion_pytorch_model.fp16.safetensors"
    )
    with pytest.raises(
        ModelError,
        match=r"vae: no \.safetensors weights of the plain name .* variants such as \.fp16 are never loaded",
    ):
        resolve(Model(path=str(model_folder)))


def lora(path):
    return Model.model_validate({"lora": [{"path": str(path)}]})


def test_a_missing_lora_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.safetensors.*no such file"):
        resolve(lora(tmp_path / "absent.safetensors"))


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", b"\x80\x04pickle" * 9],
)
def test_a_lora_that_is_not_safetensors_is_refused(tmp_path, content):
    (tmp_path / "style.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a safetensors file"):
        resolve(lora(tmp_path / "style.safetensors"))


def test_a_lora_is_part_of_the_identity(tmp_path):
    save_file({"x.lora_A.weight": torch.ones(2, 2)}, tmp_path / "style.safetensors")
    assert "lora/0/style.safetensors" in resolve(lora(tmp_path / "style.safetensors")).identity
