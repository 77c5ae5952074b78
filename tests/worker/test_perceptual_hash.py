"""Pictures that look alike have nearly the same hash, and it is the one that others compute."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from batchgen.worker.perceptual_hash import perceptual_hash


def smooth(seed: int, width: int, height: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def apart(one: Image.Image, other: Image.Image) -> int:
    """Bits in which the hashes of two pictures differ."""
    return (int(perceptual_hash(one), 16) ^ int(perceptual_hash(other), 16)).bit_count()


@pytest.mark.parametrize(
    ("seed", "size", "phash"),
    [
        (0, (64, 64), "d0d3259bba41dc8b"),
        (1, (512, 512), "daf09cf4e02232fa"),
        (2, (768, 1344), "8d53a39a3e99945c"),
    ],
)
def test_it_is_the_hash_that_imagehash_computes(
    seed: int, size: tuple[int, int], phash: str
) -> None:
    """The values are those of imagehash 4.3.2."""
    assert perceptual_hash(smooth(seed, *size)) == phash


def test_it_outlives_another_size_a_codec_and_a_small_mark_but_not_another_picture() -> None:
    one = smooth(3, 512, 384)
    buffer = io.BytesIO()
    one.save(buffer, "JPEG", quality=60)
    marked = one.copy()
    ImageDraw.Draw(marked).rectangle((8, 8, 24, 16), fill="white")
    alike = [one.resize((256, 192)), Image.open(buffer), marked]
    assert max(apart(one, other) for other in alike) <= 4
    assert min(apart(one, smooth(seed, 512, 384)) for seed in range(4, 20)) >= 14


def test_all_pictures_of_one_colour_have_the_same_hash() -> None:
    hashes = {perceptual_hash(Image.new("RGB", (64, 48), (n, 9, 90))) for n in range(0, 250, 25)}
    assert hashes == {"8000000000000000"}


def test_a_picture_of_the_smallest_and_of_a_long_size_has_one() -> None:
    assert all(len(perceptual_hash(smooth(1, *size))) == 16 for size in ((16, 16), (16, 4096)))
