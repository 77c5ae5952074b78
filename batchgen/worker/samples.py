"""Pictures → encoded images → tar members.

A sample is KEY.jpg (or png, webp), KEY.txt (the prompt) and KEY.json (everything that made the
picture). The members are USTAR with a fixed owner, mode and time, and hold nothing of hosts,
attempts or clocks: the same pictures give the same tar, byte for byte (P5). A JSON field has one
type in every sample, which the dataset card states: dataset/card_features.py names all of them.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from batchgen.manifest import NOTHING, Picture
from batchgen.settings import Output
from batchgen.shard import key_text
from batchgen.worker.perceptual_hash import perceptual_hash

BLOCK = tarfile.BLOCKSIZE  # 512 bytes


@dataclass(frozen=True, slots=True)
class Encoded:
    """An image file, and what its record says of it; without a picture there is none."""

    image: bytes = b""
    sha256: str | None = None
    phash: str | None = None
    # Of encoding alone.
    seconds: float = 0.0


def encode_picture(pixels: npt.NDArray[np.uint8], output: Output, xmp: bytes = b"") -> Encoded:
    """Encode RGB pixels [H, W, 3] in the job's format, and hash file and pixels."""
    start = time.perf_counter()
    image = encode_image(pixels, output, xmp)
    seconds = time.perf_counter() - start
    phash = perceptual_hash(Image.fromarray(pixels, "RGB"))
    return Encoded(image, hashlib.sha256(image).hexdigest(), phash, seconds)


def encode_image(pixels: npt.NDArray[np.uint8], output: Output, xmp: bytes = b"") -> bytes:
    """Encode RGB pixels [H, W, 3] in the job's format; JPEG without chroma subsampling (4:4:4).

    :param xmp: a packet to put into the file; b"" for none.
    """
    image, buffer = Image.fromarray(pixels, "RGB"), io.BytesIO()
    if output.format == "jpg":
        image.save(buffer, "JPEG", quality=output.quality, subsampling=0, xmp=xmp)
    elif output.format == "png":
        text = PngInfo()
        if xmp:
            text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        image.save(buffer, "PNG", pnginfo=text)
    else:
        image.save(buffer, "WEBP", lossless=output.lossless, quality=output.quality, xmp=xmp)
    return buffer.getvalue()


def sample(picture: Picture, image: bytes, output: Output) -> bytes:
    """The tar members of one picture, with headers and padding."""
    key = key_text(picture.key)
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
