"""Regional compilation: few graphs, all of them before the first picture, none afterwards.

Every test of toy blocks runs twice: in seconds with graphs that are executed as PyTorch traced
them, and, among the slow tests, with the code that Inductor makes of them.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException
from torch._inductor import compile_fx, config

from batchgen.engine.compile.blocks import CompiledBlocks
from batchgen.engine.compile.compile_cache import CompileCache
from batchgen.engine.compile.compiler import Compiler, Mode
from batchgen.engine.interface import Compilation
from batchgen.errors import JobError
from batchgen.model import TINY
from tests.engine.families.first_picture import FACTS, ROWS, SIZES, TOKENS, compiled_once, through

WIDTH = 8
Run = Callable[[int, int], Tensor]


class Toy(nn.Module):
    """A small FLUX single block: it joins text and image, and returns views of one tensor."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[Tensor, Tensor]:
        joint = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        joint = joint + self.linear(joint) * temb.unsqueeze(1)
        length = encoder_hidden_states.shape[1]
        return joint[:, :length], joint[:, length:]


class Choosy(Toy):
    """Needs another graph for more than three rows."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = 2.0 if hidden_states.shape[0] > 3 else 1.0
        return super().forward(hidden_states, encoder_hidden_states, temb * scale)


class Peeking(Toy):
    """Looks at a value, which no graph can."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[Tensor, Tensor]:
        scale = 2.0 if hidden_states.sum().item() > 0 else 1.0
        return super().forward(hidden_states, encoder_hidden_states, temb * scale)


class Last(Toy):
    """Drops its text, as the last block of Stable Diffusion 3.5 does."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, temb: Tensor
    ) -> tuple[None, Tensor]:
        return None, super().forward(hidden_states, encoder_hidden_states, temb)[1]


def toy_inputs(tokens: int, rows: int, width: int = WIDTH) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(100 * tokens + rows)
    shapes = {
        "hidden_states": (rows, tokens, width),
        "encoder_hidden_states": (rows, 3, width),
        "temb": (rows, width),
    }
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def runner(blocks: list[Any]) -> Run:
    """A function of tokens and rows: the image tokens after all blocks."""

    def run(tokens: int, rows: int) -> Tensor:
        values = toy_inputs(tokens, rows)
        for block in blocks:
            values["encoder_hidden_states"], values["hidden_states"] = block(**values)
        return values["hidden_states"]

    return run


Toys = tuple[list[Toy], CompiledBlocks, Compiler]
Blocks = tuple[list[nn.Module], CompiledBlocks, Compiler]


@pytest.fixture(scope="module", params=["traced", pytest.param("inductor", marks=pytest.mark.slow)])
def code(request: pytest.FixtureRequest) -> Iterator[str]:
    """What runs a graph: PyTorch's own operations, or Inductor's code, which takes long to make."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "traced":
            patch.setattr(compile_fx, "compile_fx", lambda graph, *_, **__: graph)
        yield request.param


@pytest.fixture(scope="module")
def toys(code: str) -> Toys:
    """Three blocks of one kind, compiled for two sizes and up to four rows."""
    torch.manual_seed(0)
    blocks = [Toy(), Toy(), Toy()]
    compiled, compiler = compiled_toys(blocks, [4, 6], rows=4)
    compiler.seal("")
    return blocks, compiled, compiler


def compiled_toys(
    blocks: list[Toy], tokens: list[int], rows: int
) -> tuple[CompiledBlocks, Compiler]:
    """After the warm-up."""
    compiler = Compiler("default")
    compiled = CompiledBlocks(blocks, compiler, tokens=tokens, rows=rows)
    compiled.warm(runner(compiled.blocks), tokens)
    return compiled, compiler


def assert_close(compiled: CompiledBlocks, blocks: list[Toy], tokens: int, rows: int) -> None:
    """fp32: sums of eight numbers, in another order."""
    fast, eager = runner(compiled.blocks)(tokens, rows), runner(blocks)(tokens, rows)
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


@pytest.fixture
def inference() -> Iterator[None]:
    """The mode in which the engine computes."""
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread, as in the process that compiles: code is made for a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def flux() -> Blocks:
    """The embedded model's blocks as loaded, and compiled by another process."""
    model = FluxTransformer2DModel.from_pretrained(TINY, subfolder="transformer").eval()
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    compiler = Compiler("default")
    compiled = CompiledBlocks(blocks, compiler, tokens=TOKENS, rows=ROWS, static=1)
    with pytest.MonkeyPatch.context() as patch:
        for variable in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
            patch.setenv(variable, "")  # restored at the end
        with CompileCache(compiled_once()[0], FACTS) as code:
            assert code.loaded
            compiled.warm(lambda size, rows: through(compiled.blocks, size, rows), SIZES)
        compiler.seal(code.sha256)
        return blocks, compiled, compiler


@pytest.mark.slow
def test_five_resolutions_and_all_numbers_of_rows_take_four_graphs_and_nothing_after_the_warm_up(
    flux: Blocks, inference: None
) -> None:
    blocks, compiled, compiler = flux
    made = compiler.compilation
    # Two kinds; one row, more rows.
    assert (made.graphs, made.breaks, made.recompilations) == (4, 0, 0)
    for size in SIZES:
        for rows in range(1, ROWS + 1):
            eager, fast = through(blocks, size, rows), through(compiled.blocks, size, rows)
            # fp32: sums in another order through six blocks; seen: 1.4e-6
            assert (fast - eager).abs().max() <= 1e-5 * eager.abs().max(), (size, rows)
    assert compiler.compilation == made


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rows"), [((160, 160), 2), ((128, 128), ROWS + 1)])
def test_an_unplanned_shape_is_refused_by_name(
    size: tuple[int, int], rows: int, flux: Blocks, inference: None
) -> None:
    tokens = size[0] * size[1] // 256
    told = rf"{rows} rows of {tokens} image tokens .* 1 to 8 rows of 64, 80, 96, 144 image"
    with pytest.raises(JobError, match=told):
        through(flux[1].blocks, size, rows)


def test_few_sizes_have_a_graph_each_for_one_row_and_for_more(toys: Toys, inference: None) -> None:
    blocks, compiled, compiler = toys
    for tokens in (4, 6):
        for rows in (1, 2, 3, 4):
            assert_close(compiled, blocks, tokens, rows)
    assert compiler.compilation == Compilation(graphs=4)


def test_how_a_tensor_was_made_needs_no_graph_of_its_own(toys: Toys, inference: None) -> None:
    """Views, also of one row, whose strides mean nothing, and tensors not of inference mode."""
    block, compiled = toys[0][0], toys[1].blocks[0]
    for rows in (1, 2):
        with torch.inference_mode(False):
            values = toy_inputs(4, rows)
        odd = dict(values)
        odd["hidden_states"] = torch.cat([values["hidden_states"]] * 2, dim=1)[:, :4]
        odd["temb"] = torch.stack([values["temb"]] * 2, dim=1)[:, 0]
        torch.testing.assert_close(compiled(**odd), block(**values), rtol=0, atol=1e-5)


@pytest.mark.parametrize("what", ["dtype", "text tokens", "gradients"])
def test_whatever_else_would_need_a_new_graph_is_refused_and_counted(what: str, toys: Toys) -> None:
    _, compiled, compiler = toys
    before = compiler.compilation
    with torch.inference_mode(what != "gradients"):
        values = toy_inputs(4, 2)
        if what == "dtype":
            values = {name: value.double() for name, value in values.items()}
        if what == "text tokens":
            values["encoder_hidden_states"] = values["encoder_hidden_states"][:, :2]
        with pytest.raises(JobError, match=r"compiled again.*compile.mode=none") as refusal:
            compiled.blocks[0](**values)
    assert f"hidden_states [2, 4, {WIDTH}] {values['hidden_states'].dtype}" in str(refusal.value)
    assert compiler.compilation == Compilation(before.graphs, 0, before.recompilations + 1)


def test_the_warm_up_finds_numbers_of_rows_that_need_a_graph_of_their_own(
    code: str, inference: None
) -> None:
    blocks = [Choosy()]
    compiled, compiler = compiled_toys(blocks, [4], rows=5)
    assert compiler.compilation.graphs == 3  # one row, 2 to 3, 4 to 5
    for rows in range(1, 6):
        assert_close(compiled, blocks, 4, rows)


def test_a_block_may_drop_its_text(code: str, inference: None) -> None:
    blocks = [Toy(), Last()]
    compiled, compiler = compiled_toys(blocks, [4], rows=1)
    assert compiler.compilation.graphs == 2
    assert_close(compiled, blocks, 4, 1)


def test_blocks_of_different_widths_are_different_kinds(code: str) -> None:
    compiler = Compiler("default")
    compiled = CompiledBlocks([Toy(4), Toy(4), Toy(8)], compiler, tokens=[4], rows=1)
    compiler.tell = (told := []).append

    def run(tokens: int, rows: int) -> None:
        for width, block in zip((4, 4, 8), compiled.blocks, strict=True):
            block(**toy_inputs(tokens, rows, width))

    compiled.warm(run, [4])
    assert compiler.compilation.graphs == compiled.graphs == 2
    assert told == [1, 2]


def test_a_block_that_cannot_be_one_graph_is_an_error_and_not_run_eagerly(code: str) -> None:
    with pytest.raises(TorchDynamoException):
        compiled_toys([Peeking()], [4], rows=1)


def test_image_tokens_that_the_warm_up_leaves_out_are_an_error(code: str) -> None:
    compiled = CompiledBlocks([Toy()], Compiler("default"), tokens=[4, 6], rows=1, static=0)
    with pytest.raises(JobError, match="6 image tokens are planned"):
        compiled.warm(runner(compiled.blocks), [4])


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["default", "max-autotune-no-cudagraphs"])
def test_nothing_is_chosen_by_measuring_unless_asked_for(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    real = compile_fx.compile_fx

    # Inductor calls itself once more, with its settings in force.
    def watching(*given: Any, **options: Any) -> Any:
        seen.append((config.deterministic, config.max_autotune))
        return real(*given, **options)

    monkeypatch.setattr(compile_fx, "compile_fx", watching)
    blocks = [Toy()]
    compiled = CompiledBlocks(blocks, Compiler(mode), tokens=[4], rows=1)
    compiled.warm(runner(compiled.blocks), [4])
    assert seen[-1] == ((True, False) if mode == "default" else (False, True))
    assert not config.deterministic
    assert not config.max_autotune
    with torch.inference_mode():
        assert_close(compiled, blocks, 4, 1)
