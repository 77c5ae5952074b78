"""Ready jobs with distillation LoRAs are planned with files of the published names.

The names are those in https://github.com/kohya-ss/sd-scripts/issues/1585 and 1523 (Hyper-SD).
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from batchgen.model.lora import read_lora
from batchgen.planning.planner import dry_run, locate_model
from batchgen.planning.preflight import refuse_impossible
from batchgen.settings import Job, load_job
from tests.support.full_size import write_full_size
from tests.support.rehearsal import write_prompts

WIDTH = 3072
# Outputs and inputs of the linears in each block, and beside them.
DOUBLE = {
    **{f"attn.{name}": (WIDTH, WIDTH) for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn.add_{name}_proj": (WIDTH, WIDTH) for name in "qkv"},
    "attn.to_add_out": (WIDTH, WIDTH),
    **{f"{ff}.net.0.proj": (4 * WIDTH, WIDTH) for ff in ("ff", "ff_context")},
    **{f"{ff}.net.2": (WIDTH, 4 * WIDTH) for ff in ("ff", "ff_context")},
    **{f"{norm}.linear": (6 * WIDTH, WIDTH) for norm in ("norm1", "norm1_context")},
}
SINGLE = {
    **{f"attn.to_{name}": (WIDTH, WIDTH) for name in "qkv"},
    "norm.linear": (3 * WIDTH, WIDTH),
    "proj_mlp": (4 * WIDTH, WIDTH),
    "proj_out": (WIDTH, 5 * WIDTH),
}
BESIDE = {
    "context_embedder": (WIDTH, 4096),
    "norm_out.linear": (2 * WIDTH, WIDTH),
    "proj_out": (64, WIDTH),
    "x_embedder": (WIDTH, 64),
}


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1-dev in its width, with few blocks."""
    return write_full_size(tmp_path_factory.mktemp("flux") / "model", shallow=True)


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA of rank 1 with the published names."""
    linears = {f"transformer.{name}": shape for name, shape in BESIDE.items()}
    for block in range(3):
        for kind, names in (("transformer_blocks", DOUBLE), ("single_transformer_blocks", SINGLE)):
            linears |= {f"transformer.{kind}.{block}.{name}": s for name, s in names.items()}
    content = {}
    for name, (outputs, inputs) in linears.items():
        content[f"{name}.lora_A.weight"] = torch.ones(1, inputs, dtype=torch.bfloat16)
        content[f"{name}.lora_B.weight"] = torch.ones(outputs, 1, dtype=torch.bfloat16)
    path = tmp_path_factory.mktemp("lora") / "distilled.safetensors"
    save_file(content, path)
    return path


def job_with(name: str, folder: Path, lora: Path) -> Job:
    job = load_job(Path(name), [f"model.path={folder}"])
    (its,) = job.model.lora
    model = job.model.model_copy(update={"lora": (its.model_copy(update={"path": str(lora)}),)})
    return job.model_copy(update={"model": model})


@pytest.mark.parametrize(
    ("name", "scale"), [("flux-dev-turbo-8", 1.0), ("flux-dev-hyper-8", 0.125)]
)
def test_a_distilled_flux_is_planned_as_published(
    flux: Path, lora: Path, tmp_path: Path, name: str, scale: float
) -> None:
    job, checkpoint = locate_model(job_with(name, flux, lora))
    assert checkpoint
    refuse_impossible(job, checkpoint)
    manifest = write_prompts(tmp_path / "prompts.parquet", ["a red circle"])
    plan = dry_run([manifest], job, checkpoint)
    assert [shape[:3] for shape in plan.shapes] == [(1024, 1024, 8)]
    assert (job.sampling.guidance, job.model.lora[0].scale) == (3.5, scale)
    assert job.cache.policy == "none"
    assert not plan.notes
    assert len(read_lora(lora, checkpoint.linears())) == 3 * len(DOUBLE) + 3 * len(SINGLE) + 4
