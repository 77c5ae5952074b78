"""The page in a browser: nothing on its console, nothing wider than a phone, and search works."""

import re
from pathlib import Path

import pytest

from batchgen.dataset.report import write_report
from tests.dataset.report.specimen import HOSTILE, published_run
from tests.support.browser import open_page, require_chromium

LOOK = """
  const box = page.querySelector("[data-search] input"), cards = "#cards .card";
  const shown = () => [...page.querySelectorAll(cards)].filter((one) => one.offsetParent).length;
  page.querySelectorAll("details").forEach((one) => { one.open = true; });
  const all = shown();
  box.value = "QUOTED alert";
  box.dispatchEvent(new view.Event("input"));
  const found = shown();
  box.value = "";
  box.dispatchEvent(new view.Event("input"));
  const first = page.querySelector(".card summary");
  first.focus();
  return {
    all, found, restored: shown(),
    width: page.documentElement.scrollWidth, room: page.documentElement.clientWidth,
    prompts: [...page.querySelectorAll(".prompt")].map((one) => one.textContent),
    broken: [...page.images].filter((one) => !one.complete || !one.naturalWidth).length,
    unnamed: [...page.images].filter((one) => !one.alt.trim()).length,
    headings: page.querySelectorAll("h1").length,
    focused: page.activeElement === first,
    outline: view.getComputedStyle(box).borderStyle,
  };
"""


@pytest.mark.slow
@pytest.mark.parametrize("width_px", [390, 1280])
def test_it_opens_with_every_record_unfolded(tmp_path: Path, width_px: int) -> None:
    require_chromium()
    page = write_report(published_run(tmp_path))
    opened = open_page(page, LOOK, width_px=width_px)
    seen = opened.told
    assert opened.console == []
    assert seen["width"] <= seen["room"], "it is wider than its window"
    assert (seen["broken"], seen["unnamed"], seen["headings"]) == (0, 0, 1)
    assert seen["focused"]
    for prompt in set(HOSTILE[:9]):
        assert prompt in seen["prompts"]
    assert 0 < seen["found"] < seen["all"] == seen["restored"]


@pytest.mark.slow
@pytest.mark.parametrize("scripts", [True, False])
def test_a_number_leads_to_how_it_is_computed(tmp_path: Path, scripts: bool) -> None:
    """A link to what is folded unfolds it, also without the page's script."""
    require_chromium()
    page = write_report(published_run(tmp_path, 4))
    if not scripts:
        page.write_text(re.sub("<script>.*?</script>", "", page.read_text(), flags=re.DOTALL))
    seen = open_page(
        page,
        """
        const link = page.querySelector('[data-figure="failed"] a');
        const told = page.querySelector(link.getAttribute("href"));
        const before = told.checkVisibility();
        link.click();
        return [before, told.checkVisibility(), told.textContent];
        """,
    ).told
    assert seen[:2] == [False, True]
    assert seen[2].startswith("Pictures that could not be made")


@pytest.mark.slow
def test_a_page_that_complains_is_noticed(tmp_path: Path) -> None:
    """The check above would see an error, and a script that the policy blocks."""
    require_chromium()
    page = write_report(published_run(tmp_path, 4))
    page.write_text(page.read_text().replace("</main>", "</main><script>alert(1)</script>"))
    opened = open_page(page, "return page.scripts.length")
    assert opened.told == 2
    assert any("Content Security Policy" in line for line in opened.console)
