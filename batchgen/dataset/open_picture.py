"""Open a picture that this run made, however large it is.

Pillow refuses files of more than 178,956,970 pixels, because a stranger's small file can hold an
enormous picture. The pictures of a run are as large as its owner planned them.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image

# Pillow has one limit for the whole process.
_LIMIT = threading.Lock()


@contextmanager
def open_picture(data: bytes) -> Iterator[Image.Image]:
    """The picture in an image file, not decoded yet. Pillow's limit stays for everybody else.

    :raises OSError: the file is no picture.
    """
    with _LIMIT:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            opened = Image.open(io.BytesIO(data))
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    with opened as picture:
        yield picture
