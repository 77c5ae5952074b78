"""Pictures → encoded images → tar members.

A sample is KEY.jpg (or png, webp), KEY.txt (the prompt) and KEY.json (everything that made the
picture). The members are USTAR with a fixed owner, mode and time, and hold nothing of hosts,
attempts or clocks: the same pictures give the same tar, byte for byte (P5). A JSON field has one
type in every sample, because loaders infer the type from the first few.
"""

from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import numpy.typing as npt
from PIL import Image

from batchgen.manifest import NOTHING, Picture
from batchgen.settings import Output

BLOCK = tarfile.BLOCKSIZE  # 512 bytes


def encode_image(pixels: npt.NDArray[np.uint8], output: Output) -> bytes:
    """Encode RGB pixels [H, W, 3] in the job's format; JPEG without chroma subsampling (4:4:4)."""
    image, buffer = Image.fromarray(pixels, "RGB"), io.BytesIO()
    if output.format == "jpg":
        image.save(buffer, "JPEG", quality=output.quality, subsampling=0)
    elif output.format == "png":
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "WEBP", lossless=output.lossless, quality=output.quality)
    return buffer.getvalue()


def sample(picture: Picture, image: bytes, output: Output) -> bytes:
    """The tar members of one picture, with headers and padding."""
    key = f"{picture.key:09d}"
    about = {
        "key": key,
        "row": picture.row,
        "image": picture.image,
        "id": picture.id,
        "prompt": picture.prompt,
        "negative_prompt": picture.negative_prompt,
        "seed": picture.seed,
        "width": picture.width,
        "height": picture.height,
        "steps": picture.steps,
        "guidance": float(picture.guidance),
        "true_cfg": float(picture.true_cfg),
    }
    text = json.dumps(about, ensure_ascii=False, allow_nan=False)
    if picture.extra != NOTHING:  # loaders take no object without fields
        text = f'{text[:-1]}, "extra": {picture.extra}}}'
    members = [(output.format, image), ("txt", picture.prompt.encode()), ("json", text.encode())]
    return b"".join(_member(f"{key}.{kind}", data) for kind, data in members)


def _member(name: str, data: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)
