"""Z-Image by its published configuration: its size, and what planning tells of it."""

from math import prod
from pathlib import Path

import pytest

from batchgen.engine.parallel.mesh import Mesh, choose_mesh
from batchgen.model.checkpoint import Checkpoint, resolve
from batchgen.settings.job import parse_job
from tests.support.full_size import write_full_size


@pytest.fixture(scope="module")
def zimage(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder: Path = write_full_size(tmp_path_factory.mktemp("zimage") / "model", "Z-Image")
    return resolve(parse_job({"model": {"path": str(folder)}}, "a test").model)


def test_it_has_the_published_number_of_parameters(zimage: Checkpoint) -> None:
    """6B, and the text encoder is a Qwen3 of 4B, without its last layer."""
    assert zimage.parameters("transformer") == pytest.approx(6.15e9, rel=0.002)
    layer = sum(
        prod(shape)
        for name, shape in zimage.tensors("text_encoder").items()
        if name.startswith("layers.0.")
    )
    assert zimage.parameters("text_encoder") + layer == pytest.approx(4.02e9, rel=0.002)


def test_learned_tokens_are_counted(zimage: Checkpoint) -> None:
    assert zimage.tokens(1024, 1024, 512) == (4096, 512)
    # 63·45 tokens, and 500.
    assert zimage.tokens(1008, 720, 500) == (2848, 512)


def test_the_longest_side_has_as_many_positions_as_the_model(zimage: Checkpoint) -> None:
    assert zimage.most_px == 512 * 16


def test_4_ranks_deal_out_its_heads_to_2_of_them(zimage: Checkpoint) -> None:
    assert choose_mesh(4, 0, 0, zimage.heads) == Mesh(ulysses=2, ring=2)
