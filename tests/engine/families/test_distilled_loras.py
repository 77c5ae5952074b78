"""Ready jobs with distillation LoRAs paint what stock diffusers paints with the published settings.

Each is tried with a small model of its family. The LoRA has the spelling of its authors' file; in
the stock pipeline it is added to the weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from batchgen.engine.build import build_engine
from batchgen.planning.planner import dry_run, locate_model
from batchgen.planning.preflight import refuse_impossible
from batchgen.settings import Job, load_job
from tests.support.lora_files import KOHYA, PEFT, random_matrices, spell
from tests.support.rehearsal import write_prompts
from tests.support.stock import make_picture
from tests.support.tiny_families import FAMILIES
from tests.support.tiny_family import TEXT_TOKENS

RANK, ALPHA = 2, 0.02
# Relative to the largest latent, as for all families.
RELATIVE = 1e-5
# Published with fal/FLUX.2-dev-Turbo.
TURBO = [1.0, 0.6509, 0.4374, 0.2932, 0.1893, 0.1108, 0.0495, 0.00031]


# `generate_with_diffusers.py` of https://github.com/ModelTC/Qwen-Image-Lightning.
LIGHTNING = {
    "base_image_seq_len": 256,
    "base_shift": math.log(3),
    "invert_sigmas": False,
    "max_image_seq_len": 8192,
    "max_shift": math.log(3),
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "time_shift_type": "exponential",
    "use_beta_sigmas": False,
    "use_dynamic_shifting": True,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


class WithSigmas:
    """A pipeline whose user gives the argument `sigmas`."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pipeline, name)

    def __call__(self, **given: Any) -> Any:
        return self._pipeline(**given, sigmas=TURBO)


def with_lightnings_scheduler(pipeline: Any) -> Any:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING)
    pipeline.register_modules(scheduler=scheduler)
    return pipeline


@dataclass(frozen=True)
class Distilled:
    """A ready job, and how its settings are published."""

    family: str
    guidance: float
    # The pipeline, set up as the LoRA's authors do.
    published: Callable[[Any], Any]
    # What a plan tells.
    told: str
    # The prefix of the LoRA's names, and its two matrices.
    spelling: tuple[str, tuple[str, str]]


JOBS = {
    "flux2-dev-turbo-8": Distilled(
        "flux2 dev",
        2.5,
        WithSigmas,
        "sampling.sigmas are moved by the model's scheduler (use_dynamic_shifting)",
        ("transformer.", PEFT),
    ),
    "qwen-image-lightning-8": Distilled(
        "qwen image",
        1.0,
        with_lightnings_scheduler,
        "sampling.shift = 3 moves the noise levels, and nothing else does: the model's scheduler "
        "would (use_dynamic_shifting, shift_terminal = 0.02)",
        ("", KOHYA),
    ),
}


def job_of(name: str, folder: Path, lora: Path) -> Job:
    """A ready job, with small pictures of a small model."""
    text = f"model.max_sequence_length={TEXT_TOKENS}"
    where = [f"model.path={folder}", f'model.lora=[{{path="{lora}", scale=1.0}}]']
    size = ["sampling.width=192", "sampling.height=112"]
    return load_job(Path(name), [text, *where, *size, "engine.device=cpu"])


def write_lora(path: Path, transformer: torch.nn.Module, spelling: tuple[str, Any]) -> None:
    """A LoRA for the linears of the blocks, which is added to the transformer too."""
    linears = {
        name: one
        for name, one in transformer.named_modules()
        if isinstance(one, torch.nn.Linear)
        and "transformer_blocks." in name
        and "_mod." not in name
    }
    shapes = {name: (one.out_features, one.in_features) for name, one in linears.items()}
    matrices, (prefix, parts) = random_matrices(shapes, RANK), spelling
    alphas = {f"{prefix}{name}.alpha": torch.tensor(ALPHA) for name in matrices}
    save_file(spell(matrices, prefix, parts) | alphas, path)
    for name, (up, down) in matrices.items():
        linears[name].weight.data += ALPHA / RANK * (up @ down)


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_distilled_job_equals_stock_with_the_published_settings(
    tmp_path: Path, name: str
) -> None:
    case = JOBS[name]
    family, lora = FAMILIES[case.family], tmp_path / "distilled.safetensors"
    folder = family.save(tmp_path / "model")
    stock = family.open(folder)
    write_lora(lora, stock.transformer, case.spelling)

    job, checkpoint = locate_model(job_of(name, folder, lora))
    assert checkpoint
    refuse_impossible(job, checkpoint)
    plan = dry_run([write_prompts(tmp_path / "p.parquet", ["a red circle"])], job, checkpoint)
    assert any(note.startswith(case.told) for note in plan.notes)
    assert plan.shapes[0][:4] == (192, 112, 8, False)
    assert (job.cache.policy, job.sampling.guidance) == ("none", case.guidance)

    engine = build_engine(job, checkpoint)
    picture = make_picture(1, steps=8, guidance=case.guidance, width=192, height=112)
    ours = family.as_stock(engine, engine.denoise([picture]), picture)
    theirs = family.stock(case.published(stock), picture)
    assert (theirs - ours).abs().max() <= RELATIVE * theirs.abs().max()
