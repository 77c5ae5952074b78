"""A model that cannot be used is refused at planning, with the file and the remedy."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from safetensors.torch import save_file

from batchgen.errors import ModelError
from batchgen.model import component_reader
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.model.folder import wanted
from batchgen.settings.job import Model
from tests.support.stock import PROMPTS

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
FLUX_DEV = {
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
}


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        resolve(Model(path=str(folder)))
    return str(error.value)


def test_planning_with_a_model_imports_no_torch() -> None:
    script = """if True:
        import sys
        from batchgen.model import resolve
        from batchgen.settings import Model
        checkpoint = resolve(Model())
        checkpoint.token_counter()("x")
        checkpoint.flops(128, 128, 4, 32, False)
        checkpoint.tensors("vae")
        print(checkpoint.family, {"torch", "transformers", "diffusers"} & set(sys.modules))
    """
    command = [sys.executable, "-c", script]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "flux set()"


def test_the_embedded_model_and_its_copy_have_one_identity(model_folder: Path) -> None:
    assert resolve(Model(path="tiny")).identity == resolve(Model(path=str(model_folder))).identity


@pytest.mark.parametrize("file", ["scheduler/scheduler_config.json", "tokenizer_2/tokenizer.json"])
def test_a_changed_file_changes_the_identity(model_folder: Path, file: str) -> None:
    before = resolve(Model(path=str(model_folder))).identity
    path = model_folder / file
    path.write_text(path.read_text() + " ")
    after = resolve(Model(path=str(model_folder))).identity
    assert {name for name in before if before[name] != after[name]} == {file}


def test_no_weight_header_and_no_configuration_is_read_twice(
    model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[Path] = Counter()
    for name in ("read_header", "read_json"):
        original = getattr(component_reader, name)
        monkeypatch.setattr(
            component_reader, name, lambda path, do=original: (read.update([path]), do(path))[1]
        )
    checkpoint = resolve(Model(path=str(model_folder)))
    headers = {path for path in read if path.suffix == ".safetensors"}
    assert headers == set(model_folder.rglob("*.safetensors"))
    for _ in range(2):
        for component in checkpoint.components():
            assert checkpoint.parameters(component) > 0
            checkpoint.config(component)
    del read[model_folder / "model_index.json"]
    assert set(read.values()) == {1}


def test_tokens_are_counted_as_the_text_encoder_sees_them(dev: tuple[Any, Any]) -> None:
    stock, _ = dev
    count = resolve(Model()).token_counter()
    for prompt in [*PROMPTS, "", "unknown words, and punctuation!", "a red circle " * 50]:
        assert count(prompt) == len(stock.tokenizer_2(prompt).input_ids)


def test_flops_of_flux_dev_at_1024_px_are_74_tera_a_step(model_folder: Path) -> None:
    edit(model_folder / "transformer" / "config.json", **FLUX_DEV)
    checkpoint = Checkpoint(model_folder, "flux", {})
    assert checkpoint.pixel_multiple == 16
    step, picture = 59.5e12 + 14.9e12, 2 * 28 * 74.4e12
    assert checkpoint.flops(1024, 1024, 1, 512, cfg=False) == pytest.approx(step, rel=0.002)
    assert checkpoint.flops(1024, 1024, 28, 512, cfg=True) == pytest.approx(picture, rel=0.002)


@pytest.mark.parametrize("path", ["no/such/model/here", "./missing", "~/missing-model", "missing"])
def test_an_unknown_path_lists_what_is_accepted(path: str) -> None:
    with pytest.raises(ModelError, match=r'"tiny" \(embedded\), a folder .* hub id'):
        resolve(Model(path=path))


def test_a_hub_out_of_reach_says_how_to_bring_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"hf download someone/some-model --local-dir FOLDER"):
        resolve(Model(path="someone/some-model"))


def test_a_revision_of_a_folder_is_refused() -> None:
    with pytest.raises(ModelError, match="applies to hub ids only"):
        resolve(Model(path="tiny", revision="main"))


def test_a_folder_without_an_index_is_refused(tmp_path: Path) -> None:
    assert "holds no model_index.json" in refusal(tmp_path)


def test_a_pipeline_class_without_a_family_is_refused(model_folder: Path) -> None:
    edit(model_folder / "model_index.json", _class_name="WanPipeline")
    told = refusal(model_folder)
    assert "'WanPipeline' has no family here; known: " in told
    assert "FluxPipeline" in told


def test_a_missing_component_is_named(model_folder: Path) -> None:
    (model_folder / "vae").rename(model_folder / "elsewhere")
    assert "names vae/, which is missing" in refusal(model_folder)


@pytest.mark.parametrize("ending", [".bin", ".fp16.safetensors"])
def test_pickled_weights_and_variants_alone_are_refused(model_folder: Path, ending: str) -> None:
    weights = model_folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(ending))
    told = refusal(model_folder)
    assert "vae: no .safetensors weights of the plain name" in told
    assert "variants such as .fp16 are never loaded. Convert: pipe.save_pretrained(" in told


def test_a_quantized_checkpoint_is_refused(model_folder: Path) -> None:
    config = {"quant_method": "bitsandbytes"}
    edit(model_folder / "transformer" / "config.json", quantization_config=config)
    assert "transformer: an already quantized checkpoint" in refusal(model_folder)


def test_weights_cut_short_are_refused(model_folder: Path) -> None:
    path = model_folder / TRANSFORMER
    path.write_bytes(path.read_bytes()[:-1])
    assert f"{path}: has {path.stat().st_size:,} bytes and is not a whole" in refusal(model_folder)


def test_a_missing_part_of_sharded_weights_is_named(model_folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (model_folder / "text_encoder_2" / "model.safetensors.index.json").write_text(json.dumps(index))
    (model_folder / "text_encoder_2" / "model.safetensors").unlink()
    assert "model-00001-of-00002.safetensors missing" in refusal(model_folder)


# Of stabilityai/stable-diffusion-3.5-medium: what its folders hold, and whether loading reads it.
HUB = {
    "model_index.json": True,
    "README.md": True,
    "LICENSE.md": True,
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


def test_of_a_hub_repository_what_loading_reads_is_fetched_and_nothing_twice() -> None:
    components = {name.split("/")[0] for name in HUB if "/" in name} - {"text_encoders"}
    fetched = set(filter_repo_objects(HUB, allow_patterns=wanted(components)))
    assert fetched == {name for name, read in HUB.items() if read}


def test_weights_that_are_never_loaded_are_no_part_of_the_identity(model_folder: Path) -> None:
    before = resolve(Model(path=str(model_folder)))
    for component in ("vae", "text_encoder_2"):
        for name in ("model.fp16", "model.fp16-00001-of-00002"):
            (model_folder / component / f"{name}.safetensors").write_text("not even safetensors")
        (model_folder / component / "flax_model.msgpack").write_text("of another framework")
    index = "text_encoder_2/model.fp16.safetensors.index.json"
    (model_folder / index).write_text('{"weight_map": {"a": "absent.safetensors"}}')
    after = resolve(Model(path=str(model_folder)))
    assert {name for name in after.identity if name not in before.identity} == {index}
    assert before.tensors("vae") == after.tensors("vae")


def lora(path: Path) -> Model:
    return Model.model_validate({"lora": [{"path": str(path)}]})


def test_a_missing_lora_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.safetensors.*no such file"):
        resolve(lora(tmp_path / "absent.safetensors"))


def test_a_lora_that_is_not_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "style.safetensors").write_bytes(b"\x80\x04pickle" * 9)
    with pytest.raises(ModelError, match=r"style\.safetensors: not a safetensors file"):
        resolve(lora(tmp_path / "style.safetensors"))


def test_a_lora_is_part_of_the_identity(tmp_path: Path) -> None:
    matrices = {"lora_A.weight": torch.ones(2, 64), "lora_B.weight": torch.ones(128, 2)}
    content = {f"transformer.x_embedder.{name}": matrix for name, matrix in matrices.items()}
    save_file(content, tmp_path / "style.safetensors")
    assert "lora/0/style.safetensors" in resolve(lora(tmp_path / "style.safetensors")).identity
