"""One file a model family: the parts in which families differ.

To add a family: a file here, its line in `_FAMILIES`, and its facts for planning in
`model/families/`.

    chroma.py       Chroma
    ernie_image.py  ERNIE-Image and ERNIE-Image-Turbo
    flux.py         FLUX.1
    flux2.py        FLUX.2 klein and dev
    qwen_image.py   Qwen-Image
    sd3.py          Stable Diffusion 3 and 3.5
    zimage.py       Z-Image and Z-Image-Turbo
    zimage_blocks.py  Z-Image's blocks as the engine calls them
    flux2_vae.py    what families with FLUX.2's VAE share
    first_layers.py   the first layers of a language model, as a text encoder
    family.py       what the engine asks of a family, and what families share
    lora.py         LoRAs, fused at load
    loading.py      the parts of a diffusers folder

A room imports only rooms below it.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from batchgen.engine.device import Device
from batchgen.engine.families.chroma import Chroma
from batchgen.engine.families.ernie_image import ErnieImage
from batchgen.engine.families.family import Family
from batchgen.engine.families.flux import Flux
from batchgen.engine.families.flux2 import Flux2, Flux2Dev
from batchgen.engine.families.loading import load_module, straight_to_device, without_transformer
from batchgen.engine.families.qwen_image import QwenImage
from batchgen.engine.families.sd3 import StableDiffusion3
from batchgen.engine.families.zimage import ZImage
from batchgen.errors import ModelError
from batchgen.model import Checkpoint

_FAMILIES: dict[
    str, type[Chroma | ErnieImage | Flux | Flux2 | QwenImage | StableDiffusion3 | ZImage]
] = {
    "chroma": Chroma,
    "ernie_image": ErnieImage,
    "flux": Flux,
    "flux2": Flux2,
    "flux2_dev": Flux2Dev,
    "qwen_image": QwenImage,
    "sd3": StableDiffusion3,
    "zimage": ZImage,
}
# By their name in safetensors.
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def load_family(
    checkpoint: Checkpoint,
    device: Device,
    max_sequence_length: int,
    transformer: bool = True,
    settled: Collection[str] = (),
) -> Family:
    """Load the checkpoint's weights, on the host and in the device's type.

    :param max_sequence_length: text tokens of T5.
    :param transformer: False: the transformer is its structure alone, on the meta device.
    :param settled: components that go to the device at once, to stay.
    :raises ModelError: components are not those of the family, or cannot be loaded.
    """
    if checkpoint.family not in _FAMILIES:
        raise ModelError(
            f"{checkpoint.folder}: planned as family {checkpoint.family!r}, which this engine does "
            f"not have; known: {', '.join(_FAMILIES)}"
        )
    stored = {name: _TYPES.get(checkpoint.stored_type(name), device.dtype) for name in settled}
    load = straight_to_device(load_module, stored)
    load = load if transformer else without_transformer(load)
    family = _FAMILIES[checkpoint.family]
    return family(checkpoint.folder, device, max_sequence_length, load)
