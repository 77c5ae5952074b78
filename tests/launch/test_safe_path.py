"""No process of a run imports from the folder that the command was typed in."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.launch.batch_script import script
from batchgen.settings.site import Site
from tests.support.rehearsal import rehearse, status

# Modules of Python, of libraries and of batchgen that the processes import.
NAMES = ["random", "json", "submitit", "numpy", "psutil", "batchgen", "sitecustomize"]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with modules that leave a mark and end whoever imports them."""
    folder, mark = tmp_path / "here", tmp_path / "imported"
    folder.mkdir()
    for name in NAMES:
        code = f"open({str(mark)!r}, 'a').write({name!r}); raise SystemExit({name!r})"
        (folder / f"{name}.py").write_text(code)
    monkeypatch.chdir(folder)
    return mark


@pytest.mark.slow
def test_on_this_machine(hostile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty entry of PYTHONPATH means the current folder too."""
    monkeypatch.setenv("PYTHONPATH", ":/nowhere:")
    told = rehearse(tmp_path / "run", ["a cat", "a dog"])
    assert told.code == 0, told
    assert status(tmp_path / "run")["ok"] == 2
    assert not hostile.exists()


def test_on_a_node(hostile: Path, tmp_path: Path) -> None:
    """The commands of the batch script do not see the folder; without -P they would."""
    site = Site(gpus_per_node=0, workers_per_node=1, time="1:00:00")
    text = script(site, tmp_path / "run", "0123456789abcdef", 1)
    started = re.findall(rf"{re.escape(sys.executable)} (.*?)-m ([\w.]+)", text)
    modules = ["batchgen.launch.node_check", "submitit.core._submit", "batchgen.launch.requeue"]
    assert [module for _, module in started] == modules
    imports = ["-c", f"import {', '.join(NAMES[:-1])}"]
    for options, _ in started:
        subprocess.run([sys.executable, *options.split(), *imports], check=True)
        assert not hostile.exists()
    bare = subprocess.run([sys.executable, *imports], check=False, capture_output=True)
    assert bare.returncode
    assert hostile.exists()
