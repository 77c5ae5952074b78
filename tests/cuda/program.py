"""Programs of this folder, each in a process of its own, which believes in the card to its end."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.support import ROOT


def run(name: str, *words: object, standard_input: str = "") -> Any:
    """What `python -m tests.cuda.NAME` says, in its last line."""
    command = [sys.executable, "-m", f"tests.cuda.{name}", *map(str, words)]
    done = subprocess.run(
        command, cwd=ROOT, input=standard_input, capture_output=True, text=True, check=False
    )
    assert not done.returncode, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
