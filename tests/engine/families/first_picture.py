"""A process that compiles the embedded model's blocks, or loads them, and paints one picture.

python -m tests.engine.families.first_picture FOLDER      prints a `Report` as JSON
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support import ROOT

# Width and height in pixels.
SIZES = [(128, 128), (192, 128), (128, 192), (192, 192), (160, 128)]
TOKENS = sorted({width // 16 * height // 16 for width, height in SIZES})
ROWS = 8
TEXT_TOKENS = 32
FACTS = {"model": "tiny", "tokens": TOKENS, "rows": ROWS}


@dataclass(frozen=True)
class Report:
    # CPU seconds of the process and its compilers, up to the first picture.
    cpu_s: float
    loaded: bool
    # Of the archive.
    sha256: str
    graphs: int
    # Graphs that were not found in the archive.
    compiled: int
    # Hash of the picture's pixels.
    picture: str


def inputs(size: tuple[int, int], rows: int, width: int = 128, head: int = 32) -> dict[str, Any]:
    """Random inputs of a block of the embedded model, always the same for one shape."""
    import torch

    tokens = size[0] // 16 * size[1] // 16
    generator = torch.Generator().manual_seed(1000 * tokens + rows)
    draw = functools.partial(torch.randn, generator=generator)
    angles = draw(TEXT_TOKENS + tokens, head)
    return {
        "hidden_states": draw(rows, tokens, width),
        "encoder_hidden_states": draw(rows, TEXT_TOKENS, width),
        "temb": draw(rows, width),
        "image_rotary_emb": (angles.cos(), angles.sin()),
    }


def through(blocks: Sequence[Any], size: tuple[int, int], rows: int) -> Any:
    """Image tokens [rows, T, D] after all blocks."""
    values = inputs(size, rows)
    for block in blocks:
        values["encoder_hidden_states"], values["hidden_states"] = block(**values)
    return values["hidden_states"]


def start(folder: Path) -> subprocess.Popen[str]:
    """Start such a process, with one compiler at a time, so that its seconds add up."""
    environment = os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.families.first_picture", str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )


def read(process: subprocess.Popen[str]) -> Report:
    try:
        said = process.communicate(timeout=1500)[0]
    finally:
        process.kill()
    assert process.returncode == 0
    return Report(**json.loads(said.splitlines()[-1]))


@functools.cache
def compiled_once() -> tuple[Path, list[Report]]:
    """A folder with the archive of the embedded model, and the reports of two processes.

    They were started together and found the folder empty.
    """
    folder = Path(_keep.name)
    return folder, [read(process) for process in [start(folder), start(folder)]]


# Removed when this process ends.
_keep = tempfile.TemporaryDirectory()


def _main(folder: Path) -> Report:
    import numpy as np
    import torch
    from diffusers import FluxPipeline
    from torch._dynamo.utils import counters

    from batchgen.engine.compile.blocks import CompiledBlocks
    from batchgen.engine.compile.compile_cache import CompileCache
    from batchgen.engine.compile.compiler import Compiler
    from batchgen.model import TINY

    class Stand(torch.nn.Module):
        """A compiled block where diffusers wants a module."""

        def __init__(self, block: Any) -> None:
            super().__init__()
            self.block = block

        def forward(self, joint_attention_kwargs: Any = None, **values: Any) -> Any:
            return self.block(**values)

    torch.set_num_threads(1)
    pipeline = FluxPipeline.from_pretrained(TINY, dtype=torch.float32, use_safetensors=True)
    model = pipeline.transformer
    compiler = Compiler("default")
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    compiled = CompiledBlocks(blocks, compiler, tokens=TOKENS, rows=ROWS, static=1)
    with CompileCache(folder, FACTS, wait_s=1500) as code:
        compiled.warm(lambda size, rows: through(compiled.blocks, size, rows), SIZES)
    made, anew = compiler.compilation, counters["inductor"]["fxgraph_cache_miss"]
    doubles = len(model.transformer_blocks)
    model.transformer_blocks = torch.nn.ModuleList(map(Stand, compiled.blocks[:doubles]))
    model.single_transformer_blocks = torch.nn.ModuleList(map(Stand, compiled.blocks[doubles:]))
    with torch.inference_mode():
        picture = pipeline(
            "two blue squares",
            width=128,
            height=128,
            num_inference_steps=2,
            max_sequence_length=TEXT_TOKENS,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
        ).images
    pixels = hashlib.sha256(np.ascontiguousarray(picture).tobytes()).hexdigest()
    return Report(sum(os.times()[:4]), code.loaded, code.sha256, made.graphs, anew, pixels)


if __name__ == "__main__":
    print(json.dumps(asdict(_main(Path(sys.argv[1])))))
