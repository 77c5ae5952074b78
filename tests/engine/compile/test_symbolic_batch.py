"""A graph of several rows serves every number of rows: its batch is a symbol, of which it asks
nothing.

Models are of true size, of few layers and without numbers: what PyTorch traces is the same on a
card. What Inductor adds, such as wider indices for many rows, `CompiledBlocks.warm` tries.
"""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from batchgen.engine import build
from batchgen.engine.compile.blocks import CompiledBlocks
from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.device import Device
from batchgen.engine.interface import Workload
from batchgen.engine.precision.quantized_weights import QuantizedWeights
from batchgen.model.checkpoint import resolve
from batchgen.settings.job import parse_job
from tests.engine.compile.test_blocks import Choosy, Toy, runner
from tests.support.full_size import quantize_alone, shapes_alone, write_full_size
from tests.support.graphs import record_graphs, refusals, symbolic_batches

ROWS = 4
# Of every structure one, and one in 8 bits; small models of all families are traced in
# tests/engine/families/test_every_family.py.
TRIED = [("FLUX.1-dev", "fp8"), ("SD3.5-medium", "bf16"), ("FLUX.2-klein-4B", "bf16")]


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    return record_graphs(monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("model", "linear"), TRIED)
def test_graphs_of_true_size_ask_nothing_of_their_batch(
    graphs: list[Any], tmp_path: Path, model: str, linear: str
) -> None:
    sections = {
        "model": {"path": str(write_full_size(tmp_path / "model", model, shallow=True))},
        "engine": {"device": "cpu", "batch_size": ROWS},
        "precision": {"linear": linear},
        "compile": {"mode": "default"},
    }
    job = parse_job(sections, "a test")
    nowhere = Device(torch.device("meta"), torch.bfloat16, "nowhere")
    no_cache = nullcontext(SimpleNamespace(sha256="", loaded=False))
    with (
        mock.patch.object(build, "choose_device", return_value=nowhere),
        mock.patch("batchgen.engine.families.load_module", shapes_alone),
        mock.patch.object(QuantizedWeights, "install", quantize_alone),
        mock.patch.object(build, "_compile_cache", return_value=no_cache),
        # Whether prompts are padded.
        mock.patch("transformers.masking_utils.fast_all", return_value=True),
    ):
        work = Workload(((1024, 1024),), ROWS, negative=False)
        build.build_engine(job, resolve(job.model), work=work)
    many = [graph for graph in graphs if symbolic_batches(graph)]
    assert len(many) == len(graphs) / 2, "of each kind of block one for a row, one for several"
    assert [refusals(graph) for graph in many] == [[]] * len(many)


@pytest.mark.slow
def test_a_block_that_asks_is_told(graphs: list[Any]) -> None:
    """One asks for at most three rows, and gets a second graph for more."""
    for block, asks in ((Toy(), False), (Choosy(), True)):
        graphs.clear()
        compiled = CompiledBlocks([block], Compiler("default"), tokens=[4], rows=ROWS)
        compiled.warm(runner(compiled.blocks), [4])
        many = [graph for graph in graphs if symbolic_batches(graph)]
        told = [each for graph in many for each in refusals(graph)]
        assert bool(told) == asks, told
