"""Every number of a report is what the query beside it gives, over the raw records."""

import re
from html import unescape
from pathlib import Path

import duckdb
import pytest

from batchgen.dataset.report import write_report
from batchgen.dataset.report.explained import FIGURES
from batchgen.planning.plan import READ_VERSIONS
from tests.dataset.report.specimen import published_run


class Page:
    """The numbers of a page, and its queries."""

    def __init__(self, run: Path) -> None:
        self.html = (run / "report.html").read_text()
        queries = re.findall(r"<pre[^>]*>(.*?)</pre>", self.html.split('id="how"')[1], re.DOTALL)
        self.prepare, *self.queries = map(unescape, queries)

    def shown(self, name: str) -> list[str]:
        """The values of a figure, in the page's order."""
        found: list[str] = []
        for block in self.html.split(f'data-figure="{name}"')[1:]:
            block = re.split(r'data-figure="|</section>', block)[0]
            for one, several in re.findall(r'<data value="([^"]*)"|data-values="([^"]*)"', block):
                found += [unescape(one)] if one else several.split()
        return found


def check(root: Path) -> int:
    """Compare every number with its query, as a reader would run it; return how many."""
    page, checked = Page(root), 0
    with duckdb.connect(config={"file_search_path": str(root)}) as database:
        database.execute(page.prepare)
        figures = {one.name: one for one in FIGURES if f'id="how-{one.name}"' in page.html}
        assert page.queries == [figure.sql for figure in figures.values()]
        for name, figure in figures.items():
            computed = [value for row in database.sql(figure.sql).fetchall() for value in row]
            shown = page.shown(name)
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


@pytest.mark.slow
@pytest.mark.parametrize("version", READ_VERSIONS)
def test_every_number_is_what_its_query_gives(version: int, tmp_path: Path) -> None:
    run = published_run(tmp_path, version=version)
    write_report(run)
    # Ten single numbers, audits, causes, moments, stages, workers, sizes and the steps of each.
    assert check(run.directory.root) > 100


@pytest.mark.slow
def test_so_it_is_in_the_middle_of_a_run(tmp_path: Path) -> None:
    run = published_run(tmp_path, left=2)
    write_report(run)
    check(run.directory.root)
    html = Page(run.directory.root).html
    assert "16 pictures are pending" in html
    assert "about the 8 published ones" in html
