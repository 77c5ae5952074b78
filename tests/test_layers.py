"""The map is true: a module imports only modules that stand before it, and planning needs no torch."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import batchgen

PACKAGE = Path(batchgen.__file__).parent


def order() -> list[str]:
    """Module names as the package's docstring lists them."""
    names = re.findall(r"^    ([\w/.]+?)(?:\.py|/)? {2,}", batchgen.__doc__ or "", re.MULTILINE)
    return [name.rstrip("/").removesuffix(".py") for name in names]


def modules(path: Path) -> set[str]:
    """Top-level parts of batchgen that a file imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "batchgen":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("batchgen."):
            found.add((node.module or "").split(".")[1])
    return found - {"__version__"}


def test_the_map_lists_every_module_once() -> None:
    there = {path.stem for path in PACKAGE.glob("*.py")} | {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert sorted(order()) == sorted(there - {"__init__"})


def test_a_module_imports_only_what_stands_before_it_on_the_map() -> None:
    names = order()
    for place, name in enumerate(names):
        files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else (PACKAGE / name).rglob("*.py")
        for file in files:
            later = modules(file) - set(names[: place + 1])
            assert not later, f"{file.relative_to(PACKAGE)} imports {later}, which the map places after it"


def test_the_engine_knows_nothing_of_shards_or_workers() -> None:
    allowed = {"engine", "errors", "job", "manifest", "checkpoint", "weights", "models", "durable", "process"}
    for file in (PACKAGE / "engine").rglob("*.py"):
        assert modules(file) <= allowed, file.name


def test_only_submit_imports_submitit() -> None:
    users = [path.name for path in PACKAGE.rglob("*.py") if re.search(r"^\s*(import|from) submitit", path.read_text(), re.MULTILINE)]
    assert users == ["submit.py"]


def test_planning_and_status_import_no_torch() -> None:
    code = "import sys, batchgen.run, batchgen.status, batchgen.submit, batchgen.worker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
