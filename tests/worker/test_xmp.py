"""Every picture says in XMP that a model made it; the same packet for ever, for the same inputs."""

import dataclasses
import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from batchgen.model import Ingredient
from batchgen.run import Run
from batchgen.settings import Output, load_job
from batchgen.worker.samples import encode_image
from batchgen.worker.xmp import xmp_of
from tests.support.rehearsal import Answer, ask
from tests.support.specimens import pixels, planned

MODEL = Ingredient(kind="model", name="org/dev", family="flux", digest="sha256:12", license="mit")
STYLE = Ingredient(kind="LoRA", name="style", digest="sampled:34")
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
FORMATS = [
    Output(format="jpg"),
    Output(format="png"),
    Output(format="webp"),
    Output(format="webp", lossless=True),
]


def made_by(tmp_path: Path, *settings: str, made_with: Any = (MODEL, STYLE)) -> Run:
    run = planned(tmp_path)
    plan = run.plan.model_copy(update={"made_with": made_with})
    return dataclasses.replace(run, plan=plan, job=load_job(None, list(settings)))


def told(image: bytes) -> dict[str, str]:
    """The XMP properties of a picture, as Pillow finds them and an XML parser reads them."""
    with Image.open(io.BytesIO(image)) as opened:
        packet = opened.info["xmp"]
    (description,) = ET.fromstring(packet.decode()).iter(f"{RDF}Description")
    properties = {name.rpartition("}")[2]: value for name, value in description.items()}
    assert properties.pop("about") == ""
    return properties


@pytest.mark.parametrize("output", FORMATS)
def test_readers_find_what_made_it_in_every_format_and_the_same_pixels(
    output: Output, tmp_path: Path
) -> None:
    image = encode_image(pixels(3), output, xmp_of(made_by(tmp_path)))
    assert told(image) == {
        "CreatorTool": "batchgen",
        "DigitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
        "AISystemUsed": "flux",
        "AISystemVersionUsed": "sha256:12 + sampled:34",
    }
    bare = encode_image(pixels(3), output)
    assert 0 < len(image) - len(bare) < 1000
    both = [np.asarray(Image.open(io.BytesIO(one))) for one in (image, bare)]
    assert np.array_equal(*both)


def test_the_bytes_of_the_packet_never_change(tmp_path: Path) -> None:
    """A change here changes every published picture (P5)."""
    found = hashlib.sha256(xmp_of(made_by(tmp_path))).hexdigest()
    assert found == "5966844ae3d9ef7a97cb66476a4ef52f7dfc4a54cd3d5c4135756bd1b2ea31ce"


def test_the_models_name_changes_no_byte_and_its_content_does(tmp_path: Path) -> None:
    run = made_by(tmp_path)
    (tmp_path / "again").mkdir()
    named = [MODEL.model_copy(update={"name": "elsewhere", "license": "x"})]
    assert xmp_of(made_by(tmp_path / "again", made_with=(*named, STYLE))) == xmp_of(run)
    plan = run.plan.model_copy(update={"made_with": (MODEL,)})
    assert xmp_of(dataclasses.replace(run, plan=plan)) != xmp_of(run)


def test_a_key_turns_it_off(tmp_path: Path) -> None:
    assert xmp_of(made_by(tmp_path, "output.xmp=false")) == b""
    assert encode_image(pixels(3), FORMATS[0], b"") == encode_image(pixels(3), FORMATS[0])


def test_pictures_of_a_run_have_it(finished: tuple[Path, Answer]) -> None:
    with tarfile.open(finished[0] / "data" / "000000.tar") as tar:
        names = [name for name in tar.getnames() if name.endswith(".jpg")]
        sources = {told(tar.extractfile(name).read())["DigitalSourceType"] for name in names}
    assert sources == {"http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"}


def test_another_choice_is_another_run(tmp_path: Path) -> None:
    run = planned(tmp_path)
    words = ["submit", tmp_path / "prompts.parquet", "--out", run.directory.root, "--rehearse"]
    same = ["sampling.width=16", "sampling.height=16", "engine.batch_size=2", "shards.pictures=4"]
    words += [word for one in same for word in ("--set", one)]
    answer = ask(*words, "--set", "output.xmp=false")
    assert "output.xmp: true → false" in answer.err
