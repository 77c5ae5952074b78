"""What planning must know of each model family, without torch. A family is a file here.

    chroma.py   Chroma
    flux.py     FLUX.1
    flux2.py    FLUX.2 klein
    qwen_image.py   Qwen-Image
    sd3.py      Stable Diffusion 3 and 3.5
    mmdit.py    tensors that FLUX.1, Chroma and Stable Diffusion 3 share
    facts.py    what there is to know of a family

How families compute is in `engine/families/`. A room imports only rooms below it.
"""

from batchgen.model.families.chroma import CHROMA
from batchgen.model.families.facts import FamilyFacts, encoder_of
from batchgen.model.families.flux import FLUX
from batchgen.model.families.flux2 import FLUX2_KLEIN, QWEN3_LAYERS
from batchgen.model.families.qwen_image import QWEN_IMAGE
from batchgen.model.families.sd3 import SD3

# By the pipeline class that a model folder names.
FAMILIES = {
    "FluxPipeline": FLUX,
    "ChromaPipeline": CHROMA,
    "Flux2KleinPipeline": FLUX2_KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "StableDiffusion3Pipeline": SD3,
}

__all__ = ["FAMILIES", "QWEN3_LAYERS", "QWEN_IMAGE", "FamilyFacts", "encoder_of"]
