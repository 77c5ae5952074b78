"""A picture becomes the same bytes for ever, and every reader finds what was meant."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from batchgen.settings.job import Output
from batchgen.worker.samples import encode_image, encode_picture, sample
from tests.support.specimens import picture

PNG = Output(format="png")


def noise(width: int = 48, height: int = 32) -> Any:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def archive(*samples: bytes) -> tarfile.TarFile:
    return tarfile.open(fileobj=io.BytesIO(b"".join(samples) + bytes(1024)))


def about(**given: Any) -> dict[str, Any]:
    tar = archive(sample(picture(7, **given), b"image", PNG))
    text = tar.extractfile("000000007.json").read()
    return dict(json.loads(text))


@pytest.mark.parametrize(
    ("extra", "sha256"),
    [
        # Of runs that batchgen 0.2 and older has planned.
        (r'"{\"score\":0.5}"', "f34b7d139443a1c8d3b3220618e11d9961db7f0c0e61c586862d8a17dbebf3e5"),
        ('{"score":0.5}', "03efeb647ec06647af7fb4c04d62bfb8a9dfb1b31972ce92405bf8a6dd1eeb2a"),
    ],
)
def test_the_bytes_of_a_sample_never_change(extra: str, sha256: str) -> None:
    """Two runs can be compared by hash (P5). A change here changes every published tar."""
    given = {
        "id": "a/b",
        "prompt": "ein rötliches 🐈",
        "negative_prompt": "fog",
        "guidance": 3,
        "extra": extra,
        "image": 2,
    }
    one = sample(picture(41, row=39, **given), b"not really a picture", Output(format="jpg"))
    assert hashlib.sha256(one).hexdigest() == sha256


def test_the_same_picture_gives_the_same_bytes_and_another_does_not() -> None:
    assert sample(picture(1), b"a", PNG) == sample(picture(1), b"a", PNG)
    others = (picture(1), picture(2), picture(1, seed=5), picture(1, row=2))
    assert len({sample(one, b"a", PNG) for one in others}) == 4


def test_members_are_named_by_key_and_hold_nothing_of_who_made_them() -> None:
    tar = archive(sample(picture(12), b"image", Output(format="webp")))
    assert tar.getnames() == ["000000012.webp", "000000012.txt", "000000012.json"]
    for member in tar:
        assert (member.mtime, member.uid, member.gid) == (0, 0, 0)
        assert (member.uname, member.gname, member.mode) == ("", "", 0o644)
        assert member.isreg()


def test_a_header_is_ustar_and_members_fill_whole_blocks() -> None:
    one = sample(picture(1), b"x" * 513, PNG)
    assert one[257:265] == b"ustar\x0000"
    assert len(one) % 512 == 0
    assert one[512 + 513 : 512 + 1024] == bytes(511)


def test_keys_of_ten_digits_keep_them() -> None:
    assert archive(sample(picture(10**9), b"", PNG)).getnames()[0] == "1000000000.png"


def test_samples_one_after_another_are_an_archive() -> None:
    tar = archive(*(sample(picture(key), b"%d" % key * key, PNG) for key in range(5)))
    for key in range(5):
        assert tar.extractfile(f"{key:09d}.png").read() == b"%d" % key * key


def test_webdataset_reads_what_was_written(tmp_path: Path) -> None:
    prompts = ["a cat", "زرافة 🦒\nin two lines"]
    image, path = encode_image(noise(), PNG), tmp_path / "000000.tar"
    group = [picture(key, prompt=prompt) for key, prompt in enumerate(prompts)]
    path.write_bytes(b"".join(sample(one, image, PNG) for one in group) + bytes(1024))
    read = list(webdataset.WebDataset(str(path), shardshuffle=False).decode("pil"))
    found = [(one["__key__"], one["txt"], one["json"]["seed"]) for one in read]
    assert found == [("000000000", prompts[0], 0), ("000000001", prompts[1], 1)]
    assert np.array_equal(np.asarray(read[0]["png"]), noise())


TYPES = {
    "key": str,
    "row": int,
    "image": int,
    "id": str,
    "prompt": str,
    "negative_prompt": str,
    "seed": int,
    "width": int,
    "height": int,
}
TYPES |= {"steps": int, "guidance": float, "true_cfg": float}


@pytest.mark.parametrize(
    "given",
    [{}, {"guidance": 3, "true_cfg": 0}, {"guidance": 1e22, "true_cfg": 1e-9}, {"seed": 2**63 - 1}],
)
def test_json_fields_have_one_type_whatever_their_value(given: dict[str, Any]) -> None:
    assert {name: type(value) for name, value in about(**given).items()} == TYPES


def test_json_tells_everything_that_made_the_picture() -> None:
    given = {
        "prompt": '"\\\n\u2028',
        "seed": 2**63 - 1,
        "guidance": 2.5,
        "extra": '{"a":[1,null]}',
        "id": "x",
    }
    told = about(**given)
    assert {name: told[name] for name in given} == given | {"extra": {"a": [1, None]}}
    assert (told["key"], told["row"]) == ("000000007", 7)


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        sample(picture(guidance=float("nan")), b"", PNG)


@pytest.mark.parametrize(
    ("output", "kind"), [(PNG, "PNG"), (Output(format="webp", lossless=True), "WEBP")]
)
def test_lossless_formats_keep_every_pixel(output: Output, kind: str) -> None:
    image = Image.open(io.BytesIO(encode_image(noise(), output)))
    assert (image.format, image.mode, image.size) == (kind, "RGB", (48, 32))
    assert np.array_equal(np.asarray(image), noise())


def test_jpeg_keeps_colours_at_full_resolution() -> None:
    """Each component's sampling factors in the frame header are 1×1 (4:4:4)."""
    data = encode_image(noise(), Output(format="jpg"))
    frame = data.index(b"\xff\xc0") + 4
    assert data[frame + 5] == 3, "three components"
    assert [data[frame + 7 + 3 * component] for component in range(3)] == [0x11] * 3
    assert Image.open(io.BytesIO(data)).size == (48, 32)


@pytest.mark.parametrize("kind", ["jpg", "webp"])
def test_quality_is_obeyed(kind: Any) -> None:
    outputs = [Output(format=kind, quality=quality) for quality in (10, 60, 100)]
    sizes = [len(encode_image(noise(), output)) for output in outputs]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize(
    "output",
    [Output(format="jpg"), PNG, Output(format="webp"), Output(format="webp", lossless=True)],
)
def test_an_image_is_encoded_alike_every_time(output: Output) -> None:
    assert encode_image(noise(), output) == encode_image(noise(), output)


def test_an_encoded_picture_tells_the_hash_of_its_file_and_of_its_pixels() -> None:
    told = encode_picture(noise(), PNG)
    assert told.image == encode_image(noise(), PNG)
    assert told.sha256 == hashlib.sha256(told.image).hexdigest()
    assert told.phash == encode_picture(noise(), Output(format="jpg", quality=40)).phash
    assert told.phash != encode_picture(noise().transpose(1, 0, 2), PNG).phash
