"""One file a model family.

`load_family` loads a checkpoint's weights as its Family.

    flux.py      FLUX.1
    sd3.py       Stable Diffusion 3 and 3.5
    loading.py   the parts of a diffusers folder
    lora.py      LoRAs, fused at load
    family.py    the protocol: what the engine asks of a family
"""

from __future__ import annotations

from batchgen.engine.device import Device
from batchgen.engine.families.family import Family
from batchgen.engine.quiet_imports import quiet_imports
from batchgen.errors import ModelError
from batchgen.model import Checkpoint


def load_family(
    checkpoint: Checkpoint, device: Device, max_sequence_length: int, transformer: bool = True
) -> Family:
    """Load the checkpoint's weights onto the device.

    :param transformer: whether the transformer's too; else it is its structure alone, on the meta device.
    :raises ModelError: components that are not the ones this family is made of, or that cannot be loaded.
    """
    with quiet_imports():
        from batchgen.engine.families.loading import (  # here: it imports what takes seconds
            load_module,
            without_transformer,
        )

    load = load_module if transformer else without_transformer(load_module)
    if checkpoint.family == "flux":
        from batchgen.engine.families.flux import (
            Flux,  # here: importing one family costs seconds; the others are not needed
        )

        return Flux(checkpoint.folder, device, max_sequence_length, load)
    if checkpoint.family == "sd3":
        from batchgen.engine.families.sd3 import StableDiffusion3

        return StableDiffusion3(checkpoint.folder, device, max_sequence_length, load)
    raise ModelError(
        f"{checkpoint.folder}: planned as family {checkpoint.family!r}, which this engine does not have; known: flux, sd3"
    )
