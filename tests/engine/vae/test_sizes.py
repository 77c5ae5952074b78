"""Pictures are decoded in portions whose tensors kernels can index with 32 bits."""

import pytest
import torch
from diffusers import AutoencoderKL
from torch.utils._python_dispatch import TorchDispatchMode

from batchgen.engine.sizes import HUGE, at_once, bands


class Largest(TorchDispatchMode):
    """The most elements that a tensor has had."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


def test_a_vae_of_these_families_has_256_channels_at_full_size():
    with torch.device("meta"):
        # FLUX.1 and Stable Diffusion 3 have these.
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=16,
            layers_per_block=2,
        )
        latents = torch.empty(1, 16, 64, 64)
    with torch.inference_mode(), Largest() as largest:
        vae.decode(latents)
    assert largest.elements == 256 * 512 * 512
    assert 256 * HUGE == 2**31


@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize(
    "size", [(64, 64), (1024, 1024), (2048, 2048), (2896, 2888), (2896, 2904), (4096, 4096)]
)
@pytest.mark.parametrize("scale", [1, 4])
def test_no_tensor_has_2_to_the_31_elements(size, scale, ranks):
    width, height = (side * scale for side in size)
    together = width * height * at_once(width, height)
    if portions := bands(width, height, ranks):
        together = width * height // (portions * ranks)
    assert 256 * together < 2**31
