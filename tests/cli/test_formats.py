"""Image codecs, CSV and JSONL from end to end, and several pictures of a row."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from batchgen.engine.pattern import draw_card
from batchgen.manifest import Picture
from batchgen.settings.job import Output
from batchgen.worker.samples import encode_image
from tests.support.rehearsal import Answer, ask, records, settings

CARD = draw_card(Picture(0, 0, 0, "", "a cat", "", 1, 128, 96, 28, 3.5, 1.0, "{}"))


def decoded(output: Output) -> tuple[Image.Image, "np.typing.NDArray[np.uint8]"]:
    image = Image.open(io.BytesIO(encode_image(CARD, output)))
    return image, np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("output", [Output(format="png"), Output(format="webp", lossless=True)])
def test_lossless_formats_give_every_pixel_back(output: Output) -> None:
    image, pixels = decoded(output)
    assert (image.format or "").lower() == output.format
    assert (pixels == CARD).all()


def test_jpeg_keeps_colours_at_full_resolution() -> None:
    """Without chroma subsampling, edges between colours do not bleed: drawings are made of them."""
    image, pixels = decoded(Output(format="jpg"))
    assert JpegImagePlugin.get_sampling(image) == 0
    assert np.abs(pixels.astype(int) - CARD).mean() < 2


def test_quality_decides_the_size_of_jpeg_and_lossy_webp() -> None:
    for kind in ("jpg", "webp"):
        outputs = [Output(format=kind, quality=quality) for quality in (10, 95)]
        small, large = (len(encode_image(CARD, output)) for output in outputs)
        assert small < large


def samples(run: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(run.glob("data/*.tar")):
        with tarfile.open(path) as tar:
            for name in tar.getnames():
                key, kind = name.split(".")
                found.setdefault(key, {})[kind] = tar.extractfile(name).read()
    return found


def make(file: Path, **chosen: object) -> tuple[Answer, dict[str, dict[str, Any]]]:
    run = file.with_name("run")
    words = settings(run__workers=1, shards__pictures=4, **chosen)
    return ask("submit", file, "--rehearse", "--out", run, *words), samples(run)


@pytest.mark.slow
def test_a_csv_with_several_pictures_a_row_becomes_lossless_webp(tmp_path: Path) -> None:
    file = tmp_path / "prompts.csv"
    quoted = '"a cat, ""sleeping""\non a mat",a,5,3,left\n'
    text = f"prompt,id,seed,images,source\n{quoted}🐈 on a שטיח,b.b,,2,\n"
    file.write_text(text, encoding="utf-8")
    answer, made = make(file, output__format="webp", output__lossless="true")
    assert (answer.code, len(made)) == (0, 5)
    assert [json.loads(sample["json"])["seed"] for sample in made.values()][:3] == [5, 6, 7]
    assert made["000000002"]["txt"].decode() == 'a cat, "sleeping"\non a mat'
    assert json.loads(made["000000003"]["json"])["extra"] == {"source": ""}
    for sample, record in zip(made.values(), records(tmp_path / "run"), strict=True):
        assert json.loads(sample["json"])["image"] == record["image"]
        fields = {name: record[name] for name in Picture.__slots__ if name != "extra"}
        fields["key"] = record["index"]
        pixels = np.asarray(Image.open(io.BytesIO(sample["webp"])).convert("RGB"))
        assert (pixels == draw_card(Picture(**fields, extra="{}"))).all()


@pytest.mark.slow
def test_a_jsonl_whose_rows_differ_becomes_png(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a cat", "width": 64, "height": 32, "tags": ["x", {"y": None}]},
        {"prompt": "a dog", "guidance": 2, "negative_prompt": "blurry", "score": 0.5},
        {"prompt": "a fox", "seed": 2**62 + 1, "source": "right"},
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer, made = make(file, output__format="png")
    assert answer.code == 0
    told = [json.loads(sample["json"]) for _, sample in sorted(made.items())]
    assert Image.open(io.BytesIO(made["000000000"]["png"])).size == (64, 32)
    assert [one["guidance"] for one in told] == [3.5, 2.0, 3.5]
    assert told[2]["seed"] == 2**62 + 1
    assert told[1]["negative_prompt"] == "blurry"
    assert [one["extra"]["tags"] for one in told] == ['["x",{"y":null}]', "", ""]
    assert [one["extra"]["score"] for one in told] == [None, 0.5, None]
    assert records(tmp_path / "run")[0]["extra"]["tags"] == '["x",{"y":null}]'
