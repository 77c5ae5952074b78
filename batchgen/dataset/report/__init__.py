"""`report.html`: a run on one page, for people.

    write.py       the file, at any time of a run
    page.py        the page, from everything below
    words.py       numbers, times and records as people read them
    explained.py   how each number is computed, as queries that readers can run
    gallery.py     pictures spread evenly over the run, failures, the least faithful
    plots.py       where the marks of the plots stand
    numbers.py     the numbers, in one pass over the records
    moments.py     the course of the run over clock time

A room imports only rooms below it. The page's text is in page.html.jinja, its looks in style.css.
"""

from batchgen.dataset.report.page import report_page
from batchgen.dataset.report.write import write_report

__all__ = ["report_page", "write_report"]
