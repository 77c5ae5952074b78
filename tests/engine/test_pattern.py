"""The pattern engine draws test cards without torch."""

import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest

from batchgen.engine import open_engine
from batchgen.engine.pattern import PatternEngine, draw_card
from batchgen.settings.job import parse_job
from tests.support import ROOT
from tests.support.stock import make_picture


def test_a_rehearsal_imports_no_torch():
    script = (
        "import sys; from batchgen.engine import open_engine;"
        "from batchgen.settings.job import parse_job;"
        "engine = open_engine(parse_job({'engine': {'kind': 'pattern'}}, 'test'), None);"
        "print(engine.identity, 'torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["pattern", "False"]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "a blue star"},
        {"seed": 5},
        {"guidance": 9.0},
        {"steps": 9},
        {"negative_prompt": "blue"},
        {"true_cfg": 3.0},
    ],
)
def test_whatever_decides_a_picture_changes_its_card(change):
    assert not np.array_equal(draw_card(make_picture()), draw_card(make_picture(**change)))


def test_the_same_row_gives_the_same_bytes_in_another_process():
    script = (
        "import hashlib; from batchgen.manifest import Picture;"
        "from batchgen.engine.pattern import draw_card;"
        f"print(hashlib.sha256(draw_card({make_picture(3)!r}).tobytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert run.stdout.strip() == hashlib.sha256(draw_card(make_picture(3)).tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("width", "height"), [(16, 16), (16, 256), (128, 128), (208, 144), (1024, 1024)]
)
def test_cards_have_the_size_of_their_row_and_more_than_one_colour(width, height):
    engine = PatternEngine()
    group = [make_picture(key, width=width, height=height) for key in range(2)]
    pixels, decode_s = engine.decode(engine.denoise(group))
    assert pixels.shape == (2, height, width, 3)
    assert pixels.dtype == np.uint8
    assert all((card != card[0, 0]).any() for card in pixels)
    assert decode_s > 0


def test_prompts_in_any_script_can_be_rehearsed():
    assert draw_card(make_picture(prompt="ein schöner 红色 круг 🎈 " * 40)).shape == (128, 128, 3)


def test_the_delay_is_per_group():
    settings = {"engine": {"kind": "pattern"}, "pattern": {"delay_s": 0.05}}
    engine = open_engine(parse_job(settings, "a test"), None)
    begin = time.perf_counter()
    denoised = engine.denoise([make_picture(key) for key in range(8)])
    assert 0.05 <= denoised.denoise_s <= time.perf_counter() - begin
    assert denoised.denoise_s < 0.3
