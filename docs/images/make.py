"""Make the pictures of the README from a run of 96 pictures: `make screenshots`.

    live.svg      the live view in the middle of the run
    terminal.svg  what `plan` and the end of `submit` print
    report.png    the top of the report, in Chromium, which must be installed

They are looked at before they are committed.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console, RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME
from rich.text import Text

import batchgen
from batchgen.view.show_live import Screen
from batchgen.view.watch import LEAVES

HERE = Path(__file__).parent
PROMPTS = HERE.parents[1] / "manifests" / "prompts.parquet"
SET = {"cache.policy": "multistep"}
WIDTH, HEIGHT = 1240, 1130


def main() -> None:
    """Make all three."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "prompts.parquet"
        pq.write_table(pq.read_table(PROMPTS).slice(0, 96), manifest)
        plan = ["plan", "prompts.parquet", *(f"--set {key}={SET[key]}" for key in SET)]
        planned = _ask(folder, *plan)
        run = batchgen.submit(manifest, settings=SET, out=Path(folder) / "runs" / "prompts")
        seen: list[tuple[float, int]] = []
        while (status := run.status()).written < 40:
            seen.append((status.at, status.written))
            time.sleep(0.5)
        began_at, began = next(one for one in seen if one[1])
        now = (status.written - began) / (status.at - began_at)
        _draw("live", Screen(status, now, LEAVES), "batchgen status runs/prompts --watch", 100)
        assert run.wait().state == "complete"
        ended = _ask(folder, "status", "runs/prompts")
        commands = (" ".join(plan), planned), ("status runs/prompts", ended)
        told = "\n".join(f"$ batchgen {command}\n{text}" for command, text in commands)
        _draw("terminal", Text(told.rstrip()), "batchgen", 100)
        _photograph(run.root / "report.html", HERE / "report.png")
    for path in sorted(HERE.glob("*.[ps][nv]g")):
        print(f"{path.stat().st_size / 1000:6.1f} kB  {path}")


def _ask(folder: str, *words: str) -> str:
    command = [sys.executable, "-m", "batchgen", *" ".join(words).split()]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.replace(f"{Path(folder).resolve()}/", "")


def _draw(name: str, shown: RenderableType, title: str, columns: int) -> None:
    """A terminal of so many columns, as SVG without fonts from elsewhere."""
    console = Console(
        record=True, width=columns, height=24, file=io.StringIO(), force_terminal=True
    )
    # The last line is empty, because its lower edge is cut.
    console.print(shown, Text(), sep="\n")
    svg = console.export_svg(title=title, theme=DEFAULT_TERMINAL_THEME, unique_id=name)
    svg = svg.replace("rgba(255,255,255,0.35)", "#d0d7de")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    (HERE / f"{name}.svg").write_text(svg.replace("Fira Code, monospace", "monospace"))


def _photograph(page: Path, target: Path) -> None:
    """The top of a page in Chromium, in 256 colours."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    assert browser, "chromium is missing: apt-get install chromium"
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.png"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"]
        command = [browser, *options, f"--screenshot={raw}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        Image.open(raw).convert("RGB").quantize(256).save(target, optimize=True)


if __name__ == "__main__":
    main()
