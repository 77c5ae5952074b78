"""VAEs and latents to decode in bands, and three gloo ranks that decode them all.

The ranks work alone, in pairs and all three together.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from diffusers import AutoencoderKL
from torch import Tensor

from batchgen.engine.parallel.collectives import Ranks
from batchgen.engine.parallel.mesh import Mesh
from batchgen.engine.vae.banded_decoder import decode_in_bands
from batchgen.engine.vae.decode import spread
from batchgen.engine.vae.one_frame import one_frame
from batchgen.errors import JobError
from batchgen.model import TINY
from tests.support import ROOT
from tests.support.video_vae import make_video_vae

RANKS = 3
SHAPES = [(1, 16, 16), (1, 17, 12), (2, 17, 12), (1, 23, 16)]  # B, h, w
NAMES = ["narrow", "tiny", "one frame"]

Results = dict[tuple[Any, ...], Any]


def narrow(**changes: Any) -> Any:
    """FLUX.1's autoencoder in an eighth of its width, with seeded random weights.

    No parameter has a value that would hide its absence, such as a scale of 1 or a bias of 0.
    """
    config = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (32, 32, 64, 64),
        "layers_per_block": 2,
        "latent_channels": 16,
        "norm_num_groups": 32,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }
    torch.manual_seed(0)
    vae: Any = AutoencoderKL(**config | changes).eval().requires_grad_(False)
    for name, parameter in vae.named_parameters():
        if parameter.ndim == 1:
            scale = "norm" in name and name.endswith("weight")
            torch.nn.init.normal_(parameter, float(scale), 0.2)
    return vae


def make_vae(name: str) -> Any:
    """`narrow`, the embedded model's (no attention, norms of a single group), or Qwen-Image's."""
    if name == "narrow":
        return narrow()
    if name == "one frame":
        torch.manual_seed(0)
        return one_frame(make_video_vae())
    return AutoencoderKL.from_pretrained(TINY / "vae").eval().requires_grad_(False)


def make_latents(batch: int, high: int, wide: int) -> Tensor:
    """[B, 16, h, w], the same in every process."""
    return 2 * torch.randn(batch, 16, high, wide, generator=torch.Generator().manual_seed(high))


def decode_on_ranks(folder: Path) -> list[Results]:
    """What each of the three ranks decoded."""
    subprocess.run(
        [sys.executable, "-m", "tests.engine.vae.band_ranks", folder], check=True, cwd=ROOT
    )
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def _run_rank(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    results: Results = {}
    for degree in range(rank + 1, RANKS + 1):
        store = dist.FileStore(str(folder / f"store of {degree}"), degree)
        ranks = Ranks.connect(store, rank, Mesh(ring=degree), torch.device("cpu"), timeout_s=120)
        _decode_all(ranks, results)
        ranks.close()
    torch.save(results, folder / f"{rank}.pt")


def _decode_all(ranks: Ranks, results: Results) -> None:
    """Decode every case over these ranks."""
    degree = ranks.degree
    for name in NAMES:
        vae = make_vae(name)
        for shape in SHAPES:
            results[name, shape, degree] = decode_in_bands(vae, make_latents(*shape), ranks)
    vae, tall = narrow(), make_latents(1, 23, 16)
    results["two bands a rank", degree] = decode_in_bands(vae, tall, ranks, bands=2)
    pair = make_latents(2, 8, 6)
    results["spread", degree] = spread(pair, lambda share: vae.decode(share).sample, ranks)
    half = vae.to(torch.bfloat16, memory_format=torch.channels_last)
    results["bf16", degree] = decode_in_bands(half, make_latents(1, 17, 12).bfloat16(), ranks)
    try:
        decode_in_bands(half, make_latents(1, degree - 1, 4), ranks)
    except JobError as error:
        results["too few rows", degree] = str(error)


# Run as a process of its own: it imports once, has no threads yet, and therefore may fork.
if __name__ == "__main__":
    torch.multiprocessing.start_processes(
        _run_rank, (Path(sys.argv[1]),), nprocs=RANKS, start_method="fork"
    )
