"""The page is whole in itself, small, says what is pending, and runs nothing that a prompt says."""

import dataclasses
import re
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from batchgen.dataset.report import page, words, write_report
from batchgen.dataset.report.gallery import FAILURES, PICTURES, Entry
from batchgen.dataset.report.page import MOST_BYTES, Contents
from batchgen.run.run import Run
from batchgen.shard.metadata import to_table
from batchgen.units import money
from tests.dataset.report.specimen import HOSTILE, published_run
from tests.support.rehearsal import ask
from tests.support.specimens import planned, record


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = published_run(tmp_path_factory.mktemp("report"))
    write_report(run)
    return run


class Tags(HTMLParser):
    """The start tags of a page, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))


def html_of(run: Run) -> str:
    return (run.directory.root / "report.html").read_text()


def test_it_loads_nothing_and_runs_its_own_script_alone(run: Run) -> None:
    tags = Tags(html_of(run)).found
    assert [tag for tag, _ in tags].count("script") == 1
    assert [tag for tag, _ in tags].count("h1") == 1
    assert not {tag for tag, _ in tags} & {"link", "iframe", "object", "base"}
    for tag, attributes in tags:
        assert not any(name.startswith("on") or name == "style" for name in attributes), tag
        assert (attributes.get("src") or "data:image/webp;base64,").startswith("data:image/webp")
    (policy,) = [one["content"] for _, one in tags if "http-equiv" in one]
    assert (policy or "").startswith("default-src 'none'; img-src data:;")


def test_it_names_no_path_of_this_machine(tmp_path: Path) -> None:
    run = published_run(tmp_path, 8, "run.compile_cache=/home/me/compiled")
    write_report(run)
    assert "compile_cache = &#34;compiled&#34;" in html_of(run)
    assert "/home/me" not in html_of(run)


def test_every_picture_has_its_prompt_in_words(run: Run) -> None:
    pictures = [one for tag, one in Tags(html_of(run)).found if tag == "img"]
    assert len(pictures) > 15
    assert all((one["alt"] or "").strip() for one in pictures)


@pytest.mark.parametrize("prompt", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_prompt_stands_there_as_text(run: Run, prompt: str) -> None:
    shown = re.findall(r'<p class="prompt find" dir="auto">(.*?)</p>', html_of(run), re.DOTALL)
    assert words.legible(prompt) in {unescape(text) for text in shown}


def test_it_is_the_same_for_the_same_records(run: Run) -> None:
    before = html_of(run)
    write_report(run)
    assert html_of(run) == before


@pytest.mark.slow
def test_it_stays_small_however_long_its_texts_are(run: Run) -> None:
    """As many pictures as there can be, all thumbnails at their limit, all texts enormous."""
    texts = {"prompt": "'&\"" * 50_000, "negative_prompt": "字" * 100_000}
    (long,) = to_table([record(**texts)], pa.table({})).to_pylist()
    entry = Entry(long | {"extra": {"note": "é<" * 50_000}}, "data/0.tar", "0.jpg", "x" * 16_000)
    failed = Entry(long | {"error": "<" * 100_000})
    numbers = page.count_numbers(run.directory, [], page.Statistics(0, 0, 0, {}, {}, {}, 0, 0, {}))
    contents = Contents(
        run,
        numbers,
        page.NONE,
        pictures=[entry] * PICTURES,
        failures=[failed] * FAILURES,
        worst=[entry] * 10,
        price=None,
    )
    assert len(page._render(contents, page.LIMITS[-1])) < MOST_BYTES
    assert len(page._render(contents, page.LIMITS[0])) > MOST_BYTES, "nothing had to be cut"


def test_a_run_that_has_just_begun_says_what_is_pending(tmp_path: Path) -> None:
    run = planned(tmp_path, ["a cat"] * 5)
    answer = ask("report", run.directory.root)
    assert (answer.code, answer.err) == (0, "")
    html = html_of(run)
    assert "5 pictures are pending" in html
    assert "when a first shard is published" in html
    for told in ('data-figure="rate"', "0 published ones", "read_parquet", 'href="#how'):
        assert told not in html, "there is no file yet that a query could read"


def test_what_the_plan_notes_stands_there_whole(run: Run, tmp_path: Path) -> None:
    note = f"a note <b> {'of many words ' * 30}whose end is the remedy"
    noted = dataclasses.replace(run, plan=run.plan.model_copy(update={"idle_columns": (note,)}))
    page = write_report(noted, tmp_path / "page.html").read_text()
    assert f"<p>{escape(note)}</p>" in page


def test_it_is_written_where_it_is_asked_for_and_has_the_cost(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere.html"
    assert ask("report", run.directory.root, "--out", out, "--price", "36").code == 0
    hours = float(re.findall(r'"device_hours">\s*<b><data value="(.*?)"', out.read_text())[0])
    assert f"cost: {money(36 * hours)}, or " in out.read_text()


@pytest.mark.parametrize("price", ["-1", "nan", "inf", "1e300"])
def test_a_price_that_is_none_is_refused(run: Run, tmp_path: Path, price: str) -> None:
    out = tmp_path / "page.html"
    answer = ask("report", run.directory.root, "--out", out, f"--price={price}")
    assert (answer.code, out.exists()) == (2, False)
    assert "--price" in answer.err


def test_of_one_picture_it_speaks_of_one_and_shows_no_course(tmp_path: Path) -> None:
    html = write_report(published_run(tmp_path, 1)).read_text()
    for told in ("the planned picture is accounted for.", "The only one."):
        assert told in html
    for told in ('id="time"', 'href="#time"', 'id="how-course"'):
        assert told not in html
    assert 'id="latency"' in html


def test_times_below_a_second_are_not_nothing() -> None:
    words_of = words.filters(100)
    assert [words_of["hours"](0.119), words_of["duration"](0.119)] == ["119 ms", "119 ms"]
    assert [words_of["hours"](42.0), words_of["duration"](42.0)] == ["42 s", "42 s"]
    assert [money(0.0), money(0.00312), money(0.42), money(1250)] == [
        *("0.00", "0.0031", "0.42", "1,250")
    ]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ("nowhere/page.html", "nowhere/page.html: No such file or directory. It is not there, or"),
        ("folder", "folder: Is a directory. A file is expected here, and there is a folder"),
        ("file/page.html", "file/page.html: Not a directory. A folder is expected here, and"),
    ],
)
def test_where_it_cannot_be_written_the_name_is_told_and_what_is_expected(
    run: Run, tmp_path: Path, out: str, expected: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    answer = ask("report", run.directory.root, "--out", tmp_path / out)
    assert answer.code == 2
    assert answer.err.startswith(f"batchgen: {tmp_path / expected}"), answer.err


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    answer = ask("report", tmp_path)
    assert answer.code == 2
    assert "not a run directory" in answer.err


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_letters_have_the_contrast_that_wcag_asks_for(scheme: int) -> None:
    """At least 4.5:1 for text, and 3:1 for the marks of plots (WCAG 2.2, AA)."""
    blocks = re.findall(r":root \{(.*?)\}", page._read("style.css"), re.DOTALL)
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", blocks[scheme]))
    for text in ("ink", "soft", "accent", "good", "bad", "warm"):
        for ground in ("paper", "card"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["accent"], colours["line"]) >= 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.0, "0 ms"), (0.0005, "0.5 ms"), (0.25, "250 ms"), (1.5, "1.5 s"), (600, "10 min")],
)
def test_latencies_are_told_in_their_unit(value: float, expected: str) -> None:
    assert words.seconds(value) == expected


def test_times_of_devices_are_told_in_hours_as_they_are_paid() -> None:
    told = [words.hours(seconds) for seconds in (42, 600, 7200, 4e7)]
    assert told == ["42 s", "10 min", "2.0 h", "11,111.1 h"]
