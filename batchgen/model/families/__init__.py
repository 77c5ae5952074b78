"""What planning must know of each model family, without torch. A family is a file here.

    chroma.py       Chroma
    ernie_image.py  ERNIE-Image
    flux.py         FLUX.1
    flux2.py        FLUX.2 klein and dev
    qwen_image.py   Qwen-Image
    sd3.py          Stable Diffusion 3 and 3.5
    zimage.py       Z-Image and Z-Image-Turbo
    mmdit.py        tensors that FLUX.1, Chroma and Stable Diffusion 3 share
    facts.py        what there is to know of a family

How families compute is in `engine/families/`. A room imports only rooms below it.
"""

from batchgen.model.families.chroma import CHROMA
from batchgen.model.families.ernie_image import ERNIE_IMAGE
from batchgen.model.families.facts import FamilyFacts, encoder_of
from batchgen.model.families.flux import FLUX
from batchgen.model.families.flux2 import FLUX2_DEV, FLUX2_KLEIN, MISTRAL3_LAYERS, QWEN3_LAYERS
from batchgen.model.families.qwen_image import QWEN_IMAGE
from batchgen.model.families.sd3 import SD3
from batchgen.model.families.zimage import ZIMAGE, ZIMAGE_MULTIPLE

# By the pipeline class that a model folder names.
FAMILIES = {
    "ErnieImagePipeline": ERNIE_IMAGE,
    "FluxPipeline": FLUX,
    "ChromaPipeline": CHROMA,
    "Flux2KleinPipeline": FLUX2_KLEIN,
    "QwenImagePipeline": QWEN_IMAGE,
    "Flux2Pipeline": FLUX2_DEV,
    "StableDiffusion3Pipeline": SD3,
    "ZImagePipeline": ZIMAGE,
}

__all__ = [
    "FAMILIES",
    "FLUX2_DEV",
    "FLUX2_KLEIN",
    "MISTRAL3_LAYERS",
    "QWEN3_LAYERS",
    "QWEN_IMAGE",
    "ZIMAGE_MULTIPLE",
    "FamilyFacts",
    "encoder_of",
]
