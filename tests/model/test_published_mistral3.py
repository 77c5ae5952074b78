"""FLUX.2 dev and ERNIE-Image by their published configurations: what planning tells of them."""

from pathlib import Path

import pytest

from batchgen.engine.parallel.mesh import Mesh, choose_mesh
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.planning.memory import estimate_memory
from batchgen.planning.plan import Shape
from batchgen.settings import load_job
from batchgen.settings.job import parse_job
from tests.support import ROOT
from tests.support.full_size import write_full_size

pytestmark = pytest.mark.slow

JOBS = {"FLUX.2-dev": "flux2-dev", "ERNIE-Image": "ernie-image"}
GB = 10**9


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("models")
    paths: dict[str, Path] = {model: write_full_size(folder / model, model) for model in JOBS}
    return {
        model: resolve(parse_job({"model": {"path": str(path)}}, "a test").model)
        for model, path in paths.items()
    }


@pytest.mark.parametrize(
    ("model", "billions", "text"),
    # The first are in the models' names. The second ones are without layers that are not read: of
    # Mistral Small 24B 30 of 40.
    [("FLUX.2-dev", 32.22, 17.34), ("ERNIE-Image", 8.03, 3.31)],
)
def test_weights_are_counted_as_far_as_they_are_used(
    models: dict[str, Checkpoint], model: str, billions: float, text: float
) -> None:
    assert models[model].parameters("transformer") == pytest.approx(billions * 1e9, rel=0.001)
    assert models[model].parameters("text_encoder") == pytest.approx(text * 1e9, rel=0.001)


@pytest.mark.parametrize("model", JOBS)
def test_the_ready_job_tells_the_memory_that_is_estimated(
    models: dict[str, Checkpoint], model: str
) -> None:
    path = ROOT / "jobs" / f"{JOBS[model]}.toml"
    job, told = load_job(path), path.read_text()
    shape = Shape(1024, 1024, 50, negative=False, pictures=100)
    need = estimate_memory(job, models[model], [shape], cuda=True)
    assert f"needs {-(-need.total // GB)} GB of a GPU" in told


def test_a_system_message_of_31_tokens_or_more_stands_before_every_prompt(
    models: dict[str, Checkpoint],
) -> None:
    """Each of its words is a token of the small model's tokenizer."""
    count = models["FLUX.2-dev"].token_counter()
    assert count("") >= 31
    assert count("x") == count("") + 1
    assert models["ERNIE-Image"].token_counter()("") == 1


@pytest.mark.parametrize(("model", "mesh"), [("FLUX.2-dev", 8), ("ERNIE-Image", 8)])
def test_8_ranks_deal_out_the_heads(models: dict[str, Checkpoint], model: str, mesh: int) -> None:
    """48 and 32."""
    assert choose_mesh(8, 0, 0, models[model].heads) == Mesh(ulysses=mesh)
