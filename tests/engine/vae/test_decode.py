"""A compiled decoder gives the pictures of the eager one, in every planned size and number."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL

from batchgen.engine.compile.compiler import Compiler
from batchgen.engine.families.family import Family
from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.vae.decode import CompiledDecode, plain_decode
from batchgen.errors import JobError

CPU = torch.device("cpu")
SIZES = [(32, 32), (48, 32)]  # px


class Small:
    """The parts of a family that decoding needs.

    The decoder is random and has few layers, because each takes seconds to compile.
    """

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.vae: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",),
            up_block_types=("UpDecoderBlock2D",),
            block_out_channels=(8,),
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=2,
        ).eval()

    def noise_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 4, height, width


@pytest.fixture(scope="module")
def compiled() -> Iterator[SimpleNamespace]:
    """The decoder, compiled for two sizes and up to three pictures, and its compiler."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    family: Any = Small()
    compiler = Compiler("default")
    # There are more sizes than `static`, so both share a graph.
    decode = CompiledDecode(family, compiler, SIZES, Ranks(), static=1)
    decode.warm(3, CPU, torch.float32)
    compiler.seal("")
    yield SimpleNamespace(decode=decode, compiler=compiler, family=family)
    torch.set_num_threads(before)


def latents(family: Family, size: tuple[int, int], count: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, *family.noise_shape(*size), generator=generator)


@pytest.mark.slow
def test_planned_sizes_decode_in_any_number_as_they_do_eagerly_in_any_thread(
    compiled: SimpleNamespace,
) -> None:
    decode = torch.inference_mode()(compiled.decode)
    eager = torch.inference_mode()(plain_decode(compiled.family.vae, CPU))
    with ThreadPoolExecutor(1) as writer:
        for size in SIZES:
            for count in (1, 2, 3):
                given = latents(compiled.family, size, count)
                made = writer.submit(decode, given).result()
                torch.testing.assert_close(made, eager(given), rtol=0, atol=1e-5)
    compilation = compiled.compiler.compilation
    assert compilation.graphs == 2, "one for a single picture, one for several"
    assert compiled.decode.graphs(3) == 2
    assert compilation.breaks == compilation.recompilations == 0


@pytest.mark.slow
def test_what_would_need_another_graph_is_refused(compiled: SimpleNamespace) -> None:
    again = r"latents \[2, 4, 32, 32\] .* AutoencoderKL would have to be compiled again"
    with pytest.raises(JobError, match=f"{again}.*32×32, 48×32 px"):
        compiled.decode(latents(compiled.family, SIZES[0], 2))  # not in inference mode
    assert compiled.compiler.compilation.recompilations == 1


def test_pictures_that_are_decoded_in_bands_are_not_compiled() -> None:
    family: Any = Small()
    compiler = Compiler("default")
    CompiledDecode(family, compiler, [(4096, 4096)], Ranks()).warm(8, CPU, torch.float32)
    assert compiler.compilation.graphs == 0
