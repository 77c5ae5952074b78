"""Every number of a report is what a query gives over the raw records: its value, its words, marks.

A number of a figure has its query on the page, for readers. Numbers in sentences have theirs here,
and no sentence with a digit is without one.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from pathlib import Path
from typing import Any

import duckdb
import pytest

from batchgen.dataset.report import write_report
from batchgen.dataset.report.explained import FIGURES
from batchgen.planning.plan import READ_VERSIONS
from batchgen.run.run import Run
from tests.dataset.report.specimen import published_run

PRICE = 2.5
# What a word beside a number makes of it.
UNITS = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "d": 86400, "%": 0.01}
UNITS |= {"bytes": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}
# Sentences with numbers, whole, and the queries that give them.
COST = f"sum(device_s) / 3600 * {PRICE}"
CLOCK = "strftime(make_timestamp(({} * 1e6)::BIGINT), '%Y-%m-%d %H:%M:%S UTC')"
BEGAN, ENDED = CLOCK.format("min(finished_at - total_s)"), CLOCK.format("max(finished_at)")
SENTENCES = {
    r": all (\S+) planned pictures are accounted for\.": "SELECT getvariable('planned')",
    r": (\S+) pictures are pending\. What follows is about the (\S+) published ones\.": (
        "SELECT getvariable('planned') - count(*), count(*) FROM records"
    ),
    r"Made by test cards with batchgen [\d.]+, from (.*) to (.*)\.": (
        f"SELECT {BEGAN}, {ENDED} FROM records"
    ),
    r"cost: (\S+), or (\S+) for 1,000 pictures": (
        f"SELECT {COST}, {COST} / count(*) FILTER (outcome = 'ok') * 1000 FROM records"
    ),
    r"All (\S+)\. A click on a picture shows its whole record\.": "SELECT count(*) FROM good",
    r"100 of (\S+), spread evenly over the run\. .*": "SELECT count(*) FROM good",
    r"(\S+) more pictures": "SELECT least(count(*), 100) - 20 FROM good",
    r"All (\S+)\. A click shows the record\.": (
        "SELECT count(*) FROM records WHERE outcome = 'failed'"
    ),
    r"40 of (\S+), spread evenly over them\. .*": (
        "SELECT count(*) FROM records WHERE outcome = 'failed'"
    ),
    r"Moments of (.*)\. The first and the last may be shorter\.": "SELECT getvariable('moment_s')",
    r"0 to (\S+ m?s)": (
        "SELECT max(q) FROM (SELECT quantile_cont(seconds, 0.99) AS q FROM (UNPIVOT good ON "
        "group_text_s, group_denoise_s, group_decode_s, image_encode_s, total_s INTO NAME stage "
        "VALUE seconds) GROUP BY stage)"
    ),
    r"0 to ([\d,.]+)": (
        "SELECT max(rate) FROM (SELECT count(*) FILTER (outcome = 'ok') / sum(device_s) * 3600 "
        "AS rate FROM records GROUP BY host, worker)"
    ),
    r"(\S+) workers, the fastest first\.": "SELECT count(DISTINCT (host, worker)) FROM records",
    r"(\S+) workers of (\S+) devices each, the fastest first\.": (
        "SELECT count(DISTINCT (host, worker)), getvariable('ranks') FROM records"
    ),
    r"mean score of (\S+) pictures?": "SELECT count(score) FROM good",
    r"What the classifier holds for the most probable label of (\S+) good pictures\.": (
        "SELECT count(label) FROM good"
    ),
    r"step 1 to (\S+)": "SELECT max(steps) FROM good",
}
_APART = (
    *(r'<details class="card.*?</details>', "<data .*?</data>", "<svg.*?</svg>"),
    r'<p class="key">.*?</p>',
    r'<th scope="col">\d\d%</th>',
)


def told(words: str) -> tuple[float, float, str]:
    """A number as people read it, how far off its rounding may be, and its unit."""
    found = re.match(r"(-?[\d,]*\.?\d+)(?:e([+-]\d+))? ?(\S*)", words)
    assert found, words
    number, unit = found[1].replace(",", ""), found[3]
    size = 10.0 ** int(found[2] or 0) * UNITS.get(unit, 1)
    return float(number) * size, 0.501 * 10.0 ** -len(number.partition(".")[2]) * size, unit


def same(words: str, value: float, rel: float = 1e-9) -> bool:
    number, off, _ = told(words)
    return abs(number - value) <= off + rel * abs(value)


def _clock(at: float) -> str:
    return datetime.fromtimestamp(float(at), UTC).strftime("%d %b %H:%M:%S")


class Page:
    """The numbers of a page, and its queries."""

    def __init__(self, run: Path) -> None:
        self.html = (run / "report.html").read_text()
        queries = re.findall(r"<pre[^>]*>(.*?)</pre>", self.html.split('id="how"')[1], re.DOTALL)
        self.prepare, *self.queries = map(unescape, queries)

    def blocks(self, name: str) -> Iterator[str]:
        """The page's parts that show a figure, in its order."""
        for block in self.html.split(f'data-figure="{name}"')[1:]:
            yield re.split(r'data-figure="|</section>', block)[0]

    def shown(self, name: str) -> list[str]:
        """The values of a figure, in the page's order."""
        found: list[str] = []
        for block in self.blocks(name):
            for one, several in re.findall(r'<data value="([^"]*)"|data-values="([^"]*)"', block):
                found += [unescape(one)] if one else several.split()
        return found

    def sentences(self) -> list[str]:
        """Texts with digits that no figure has, without cards, settings, axes and legends."""
        body = self.html.split("<body>")[1].split('<section id="settings"')[0]
        for apart in _APART:
            body = re.sub(apart, "", body, flags=re.DOTALL)
        texts = (" ".join(unescape(text).split()) for text in re.findall(r">([^<>]+)", body))
        return [text for text in texts if re.search(r"\d", text)]


@dataclass
class Report:
    """A page, and the records that it is about."""

    page: Page
    database: duckdb.DuckDBPyConnection

    def ask(self, query: str) -> list[Any]:
        return [value for row in self.database.sql(query).fetchall() for value in row]


def report(run: Run) -> Report:
    """Write a run's report; a reader's database of its records."""
    write_report(run, price=PRICE)
    root = run.directory.root
    page, database = Page(root), duckdb.connect(config={"file_search_path": str(root)})
    database.execute(page.prepare)
    return Report(page, database)


def check_figures(one: Report) -> int:
    """Compare every number with its query, as a reader would run it; return how many."""
    page, checked = one.page, 0
    figures = {figure.name: figure for figure in FIGURES if f'id="how-{figure.name}"' in page.html}
    assert page.queries == [figure.sql for figure in figures.values()]
    for name, figure in figures.items():
        computed, shown = one.ask(figure.sql), page.shown(name)
        assert len(shown) == len(computed), name
        for ours, theirs in zip(shown, computed, strict=True):
            if isinstance(theirs, str):
                assert ours == theirs, name
            else:
                # Moments are seconds since 1970, as floats.
                least = 1e-6 if name == "span" else 1e-12
                assert float(ours) == pytest.approx(float(theirs), rel=1e-9, abs=least), name
        checked += len(shown)
    return checked


def check_words(one: Report) -> None:
    """All that people read and see is what the values say."""
    check_data(one.page)
    check_bars(one.page)
    check_course(one.page, one.ask("SELECT getvariable('moment_s')")[0])
    check_sentences(one)


def check_data(page: Page) -> None:
    """What people read beside a value is that value."""
    for name in {figure.name for figure in FIGURES}:
        for block in page.blocks(name):
            for value, words in re.findall(r'<data value="([\d.e+-]+)">([^<]*)</data>', block):
                hours = told(words)[2] in ("s", "min", "h") and name in ("device_hours", "workers")
                assert same(words, float(value) * (3600 if hours else 1)), (name, value, words)


def check_sentences(one: Report) -> None:
    for text in one.page.sentences():
        found = [
            (match, sql) for like, sql in SENTENCES.items() if (match := re.fullmatch(like, text))
        ]
        assert len(found) == 1, text
        (match, sql) = found[0]
        for words, value in zip(match.groups(), one.ask(sql), strict=True):
            assert words == value if isinstance(value, str) else same(words, float(value)), text


def check_bars(page: Page) -> None:
    """Bars are as long as their numbers, and cells as dark."""
    lengths = r'<rect class="(?:fill|failed)[^"]*" width="([\d.]+)%" height="16"'
    for name, places in {"failures": [1], "stages": [3, 2, 1], "workers": [5]}.items():
        (block,) = page.blocks(name)
        rows = [re.findall(r'<data value="([^"]*)"', row) for row in block.split("</tr>")]
        values = [float(row[at]) for row in rows if row for at in places]
        whole = sum(values) if name == "failures" else max(values)
        found = [float(length) for length in re.findall(lengths, block)]
        assert found == pytest.approx([100 * value / whole for value in values], abs=0.01), name
    cells = re.findall(
        r'fill-opacity="(.*?)" .*data-values="(.*?)"><title>.* computed by (.*)</title>', page.html
    )
    assert len(cells) >= 10
    for dark, share, words in cells:
        assert float(dark) == pytest.approx(float(share), abs=0.005)
        assert same(words, float(share))


def check_course(page: Page, moment_s: float) -> None:
    """Marks over time stand where their numbers and the axes say, and are told so."""
    (course,) = page.blocks("course")
    places = r'x="([\d.]+)%" width="([\d.]+)%" y="(.*?)%" height="(.*?)%"'
    told_so = r' data-at="(.*?)" data-values="(.*?)"><title>(.*) UTC: (.*) pictures?, (.*) an hour<'
    bars = re.findall(places + told_so, course)
    moments = [[float(value) for value in bar[5].split()] for bar in bars]
    at = [float(bar[4]) for bar in bars]
    middles = [float(bar[0]) + float(bar[1]) / 2 for bar in bars]
    expected = [100 * (one - at[0] + moment_s / 2) / (at[-1] - at[0] + moment_s) for one in at]
    assert middles == pytest.approx(expected, abs=0.02)
    for bar, moment in zip(bars, moments, strict=True):
        assert float(bar[2]) + float(bar[3]) == pytest.approx(100, abs=0.02)
        assert bar[6] == _clock(bar[4])
        assert same(bar[7], moment[0] * moment_s / 3600)
        assert same(bar[8], moment[0])
    lines = []
    for place, name in enumerate(("p50", "p95", "p99"), start=1):
        like = (
            rf'class="line {name}" r="3" cx="(.*?)%" cy="(.*?)%"><title>(.*) UTC: {name} ([^<]*)<'
        )
        circles = re.findall(like, course)
        assert [float(x) for x, *_ in circles] == pytest.approx(expected, abs=0.02)
        for (_, y, clock, words), when, moment in zip(circles, at, moments, strict=True):
            assert clock == _clock(when)
            assert same(words, moment[place])
            lines.append((100 - float(y), moment[place]))
    plots, ends = course.split("</svg>"), (_clock(at[0]), f"{_clock(at[-1] + moment_s)} UTC")
    heights = (float(bar[3]) for bar in bars)
    rates = (moment[0] for moment in moments)
    check_axis(plots[0], list(zip(heights, rates, strict=True)), ends)
    check_axis(plots[1], lines, ends)


def check_axis(plot: str, marks: list[tuple[float, float]], ends: tuple[str, str]) -> None:
    """Heights of marks are their values on an axis from zero, whose words say so.

    :param marks: height and value of each.
    :param ends: the times at the left and at the right.
    """
    scale = max(height for height, _ in marks) / max(value for _, value in marks)
    assert [height for height, _ in marks] == pytest.approx(
        [value * scale for _, value in marks], abs=0.02
    )
    rules = re.findall(r'<text x="0" y="([\d.]+)%" dx[^>]*>([^<]*)<', plot)
    assert len(rules) >= 2
    assert all(same(words, (100 - float(y)) / scale, rel=1e-3) for y, words in rules)
    assert tuple(re.findall(r'<text x="\d+%?" y="100%" dy[^>]*>([^<]*)<', plot)) == ends
    (label,) = re.findall(r'role="img" aria-label="(.*?)"', plot)
    assert f"from {ends[0]} to {ends[1]}" in label or label.endswith(f"to {rules[-1][1]}")


@pytest.mark.slow
@pytest.mark.parametrize("version", READ_VERSIONS)
def test_every_number_is_what_its_query_gives(version: int, tmp_path: Path) -> None:
    made = report(published_run(tmp_path, version=version))
    # Ten single numbers, audits, causes, moments, stages, workers, sizes and the steps of each.
    assert check_figures(made) > 100
    check_words(made)


@pytest.mark.slow
def test_so_it_is_in_the_middle_of_a_run(tmp_path: Path) -> None:
    made = report(published_run(tmp_path, 24, "parallel.cp=2", left=2))
    assert "16 pictures are pending" in made.page.html
    check_figures(made)
    check_words(made)


@pytest.mark.slow
@pytest.mark.parametrize(("scores", "figure"), [("number", "score"), ("label", "labels")])
def test_so_are_scores_and_labels(scores: str, figure: str, tmp_path: Path) -> None:
    made = report(published_run(tmp_path, scores=scores))
    check_figures(made)
    check_words(made)
    assert len(made.page.shown(figure)) >= 4
    other = {"score": "labels", "labels": "score"}[figure]
    assert made.page.shown(other) == []
    assert f'id="how-{other}"' not in made.page.html
    assert "<b>drawing" not in made.page.html


def test_without_a_scorer_there_is_nothing_about_scores(tmp_path: Path) -> None:
    page = report(published_run(tmp_path, 8)).page
    assert page.shown("score") == page.shown("labels") == []
    assert "how-score" not in page.html
    assert "how-labels" not in page.html


@pytest.mark.slow
def test_so_it_is_where_not_all_are_shown(tmp_path: Path) -> None:
    made = report(published_run(tmp_path, 240))
    check_figures(made)
    check_words(made)
    assert "100 of 192, spread evenly" in made.page.html
    assert "40 of 48, spread evenly" in made.page.html
