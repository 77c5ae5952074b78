"""A page in headless Chromium: what its console says, and what a script sees in it."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
    *("--allow-file-access-from-files", "--virtual-time-budget=5000", "--dump-dom"),
)
# The page stands in a frame of the wanted width; the page's own policy lets no other script in.
_PROBE = """<!doctype html><meta charset="utf-8">
<iframe id="frame" width="{width}" height="900" src="{page}"></iframe><pre id="told"></pre>
<script>onload = () => {{
  const frame = document.getElementById("frame");
  const page = frame.contentDocument, view = frame.contentWindow;
  document.getElementById("told").textContent = JSON.stringify((() => {{ {script} }})());
}};</script>"""


@dataclass(frozen=True)
class Opened:
    """What the console said, and what the script returned."""

    console: list[str]
    told: Any


def require_chromium() -> str:
    """The browser's path. Skip the test if it is not installed; in CI, fail it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or ""
    if not path:
        said = "NOT OPENED IN A BROWSER, because chromium is missing: apt-get install chromium"
        pytest.fail(said) if os.environ.get("CI") else pytest.skip(said)
    return path


def open_page(page: Path, script: str, *, width_px: int = 1280) -> Opened:
    """Open a page, and run a script over it.

    :param script: the body of a function; it sees the document as `page`, its window as `view`.
    """
    probe = page.with_name("probe.html")
    probe.write_text(_PROBE.format(width=width_px, page=page.name, script=script))
    command = [require_chromium(), *_OPTIONS, f"--user-data-dir={page.parent / 'profile'}"]
    process = subprocess.run(
        [*command, probe.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )
    (told,) = re.findall(r'<pre id="told">(.*?)</pre>', process.stdout, re.DOTALL) or [""]
    assert told, process.stderr[-3000:]
    console = [line for line in process.stderr.splitlines() if ":CONSOLE" in line]
    return Opened(console, json.loads(unescape(told)))
