"""A picture that cannot be made costs one record, and what it takes to find this out is bounded."""

import numpy as np
import pytest

from batchgen.errors import DeviceFault
from batchgen.manifest import Picture
from batchgen.worker.renderer import Made, Renderer
from tests.support.specimens import StubEngine, picture, pictures, pixels

Outcome = tuple[int, str, str, int]  # key, cause, path, group size


def group_with(*prompts: str) -> list[Picture]:
    return [picture(key, prompt=prompt or "a cat") for key, prompt in enumerate(prompts)]


def make(engine: StubEngine, group: list[Picture], renderer: Renderer | None = None) -> list[Made]:
    renderer = renderer or Renderer(engine)
    return [made for part in renderer.denoise(group) for made in renderer.decode(part)]


def outcomes(made: list[Made]) -> list[Outcome]:
    return [(one.picture.key, one.cause, one.path, one.group_size) for one in made]


def test_a_good_group_is_made_at_once_in_order() -> None:
    engine = StubEngine()
    made = make(engine, pictures(4))
    assert outcomes(made) == [(key, "", "normal", 4) for key in range(4)]
    assert engine.denoised == [[0, 1, 2, 3]]
    assert [np.array_equal(one.pixels, pixels(key)) for key, one in enumerate(made)] == [True] * 4
    assert {(one.text_s, one.denoise_s, one.decode_s, one.peak_bytes) for one in made} == {
        (1.0, 2.0, 3.0, 7)
    }


def test_a_group_that_does_not_fit_is_halved_until_it_does() -> None:
    engine = StubEngine(fits=2)
    assert outcomes(make(engine, pictures(7))) == [
        (key, "", "oom_split", 1 if key == 6 else 2) for key in range(7)
    ]
    assert engine.denoised == [[0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3], [0, 1], [2, 3], [4, 5], [6]]


def test_what_fits_is_remembered_for_the_size_and_only_for_it() -> None:
    engine = StubEngine(fits=2)
    renderer = Renderer(engine)
    make(engine, pictures(4), renderer)
    engine.denoised.clear()
    make(engine, pictures(4), renderer)
    assert engine.denoised == [[0, 1], [2, 3]]
    engine.fits = 1000
    assert outcomes(make(engine, pictures(4, width=32), renderer)) == [
        (key, "", "normal", 4) for key in range(4)
    ]


def test_what_did_not_fit_another_process_is_halved_from_the_start() -> None:
    engine = StubEngine(fits=2)
    renderer = Renderer(engine)
    renderer.learn([((16, 16), 8), ((16, 16), 4), ((16, 16), 6), ((32, 16), 2)])
    assert outcomes(make(engine, pictures(3), renderer)) == [
        (0, "", "oom_split", 2),
        (1, "", "oom_split", 2),
        (2, "", "oom_split", 1),
    ]
    assert engine.denoised == [[0, 1], [2]]
    assert renderer.fits == {(16, 16): 2, (32, 16): 1}


def test_a_picture_that_does_not_fit_alone_fails_by_itself() -> None:
    made = make(StubEngine(fits=0), pictures(2))
    assert outcomes(made) == [(key, "out of memory", "oom_split", 1) for key in range(2)]
    assert made[0].error == "1 do not fit"
    assert made[0].pixels is None


def test_an_exception_makes_each_picture_once_more_alone() -> None:
    engine = StubEngine()
    made = make(engine, group_with("", "RAISE", ""))
    assert outcomes(made) == [
        (0, "", "retry", 1),
        (1, "exception", "retry", 1),
        (2, "", "retry", 1),
    ]
    assert engine.denoised == [[0, 1, 2], [0], [1], [2]]
    assert made[1].error.startswith("ValueError: no (denoise, line ")


@pytest.mark.parametrize("fault", ["RAISE", "RAISE DECODING", "NAN", "FLAT"])
def test_a_passing_fault_costs_one_retry_and_no_picture(fault: str) -> None:
    made = make(StubEngine(), group_with("", f"{fault} once", ""))
    assert [one.cause for one in made] == ["", "", ""]
    assert made[1].path == "retry"
    assert np.array_equal(made[1].pixels, pixels(1))


@pytest.mark.parametrize("fault", ["RAISE", "RAISE DECODING", "NAN", "FLAT"])
def test_a_group_of_one_gets_its_retry_too(fault: str) -> None:
    assert outcomes(make(StubEngine(), group_with(f"{fault} once"))) == [(0, "", "retry", 1)]


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("RAISE", "exception"),
        ("RAISE DECODING", "exception"),
        ("FULL DECODING", "out of memory"),
        ("NAN", "not finite"),
        ("FLAT", "one colour"),
    ],
)
def test_a_lasting_fault_is_tried_twice_and_recorded(fault: str, cause: str) -> None:
    engine = StubEngine()
    made = make(engine, group_with(fault))
    assert outcomes(made) == [(0, cause, "retry", 1)]
    assert engine.denoised == [[0], [0]]
    assert made[0].error
    assert made[0].pixels is None


@pytest.mark.parametrize(("fault", "cause"), [("NAN", "not finite"), ("FLAT", "one colour")])
def test_a_picture_that_turned_out_bad_is_repeated_without_its_good_neighbours(
    fault: str, cause: str
) -> None:
    engine = StubEngine()
    made = make(engine, group_with("", fault, "", fault))
    assert outcomes(made) == [
        (0, "", "normal", 4),
        (1, cause, "retry", 1),
        (2, "", "normal", 4),
        (3, cause, "retry", 1),
    ]
    assert engine.denoised == [[0, 1, 2, 3], [1], [3]]


def test_a_picture_that_is_alone_because_of_another_gets_no_third_try() -> None:
    engine = StubEngine()
    assert outcomes(make(engine, group_with("RAISE once", "NAN"))) == [
        (0, "", "retry", 1),
        (1, "not finite", "retry", 1),
    ]
    assert engine.denoised == [[0, 1], [0], [1]]


def test_when_decoding_throws_each_picture_is_made_alone() -> None:
    engine = StubEngine()
    made = make(engine, group_with("", "RAISE DECODING", ""))
    assert outcomes(made) == [
        (0, "", "retry", 1),
        (1, "exception", "retry", 1),
        (2, "", "retry", 1),
    ]
    assert engine.denoised == [[0, 1, 2], [0], [1], [2]]


def test_all_pictures_of_a_group_may_fail() -> None:
    made = make(StubEngine(), group_with(*["RAISE"] * 3))
    assert [one.cause for one in made] == ["exception"] * 3


def test_a_halved_group_with_a_bad_picture_keeps_order_and_paths() -> None:
    made = make(StubEngine(fits=2), group_with("", "NAN", "", "RAISE"))
    assert outcomes(made) == [
        (0, "", "oom_split", 2),
        (1, "not finite", "retry", 1),
        (2, "", "retry", 1),
        (3, "exception", "retry", 1),
    ]


@pytest.mark.parametrize("prompts", [["", "FAULT"], ["FAULT"]])
def test_a_device_fault_ends_the_process_and_is_not_retried(prompts: list[str]) -> None:
    engine = StubEngine()
    with pytest.raises(DeviceFault):
        make(engine, group_with(*prompts))
    assert len(engine.denoised) == 1


def test_a_device_fault_while_decoding_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(_denoised: object) -> None:
        raise DeviceFault("gone")

    engine = StubEngine()
    monkeypatch.setattr(engine, "decode", decode)
    with pytest.raises(DeviceFault):
        make(engine, pictures(2))
    assert len(engine.denoised) == 1


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_signal_is_no_failure_of_the_picture(
    signal: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denoise(_group: object) -> None:
        raise signal

    engine = StubEngine()
    monkeypatch.setattr(engine, "denoise", denoise)
    with pytest.raises(signal):
        make(engine, pictures(2))
