"""The map is true: imports point down the list of wings, in no circle; planning needs no torch."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import batchgen

PACKAGE = Path(batchgen.__file__).parent
ROOMS = {
    path: ".".join(("batchgen", *path.relative_to(PACKAGE).with_suffix("").parts))
    for path in PACKAGE.rglob("*.py")
}
ROOMS = {path: name.removesuffix(".__init__") for path, name in ROOMS.items()}
NAMES = set(ROOMS.values())


def listed(docstring: str | None) -> list[str]:
    """Names of the folders and files that a map in a docstring lists, in its order."""
    names = re.findall(r"^    ([\w/.]+?)(?:\.py|/)? {2,}", docstring or "", re.MULTILINE)
    return [name.rstrip("/").removesuffix(".py") for name in names]


WINGS = listed(batchgen.__doc__)


def imported(path: Path, *, at_once: bool = False) -> set[str]:
    """Modules of the package that a file imports: anywhere, or while it is itself imported.

    A name that a package's door re-exports is an import of the door.
    """
    tree = ast.parse(path.read_text())
    found = set()
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in NAMES}
        elif isinstance(node, ast.ImportFrom) and (node.module or "") in NAMES:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & NAMES
            if inner - NAMES:
                found.add(node.module or "")
    return found


def wing(module: str) -> str:
    return [*module.split("."), ""][1]


def test_the_map_lists_every_wing_and_every_file_beside_them_once() -> None:
    there = [path.stem for path in PACKAGE.glob("*.py")]
    there += [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    assert sorted(WINGS) == sorted(set(there) - {"__init__"})


def test_imports_point_down_the_list_of_wings() -> None:
    for path, name in ROOMS.items():
        if name == "batchgen":
            continue
        for other in imported(path) - {"batchgen"}:
            above = WINGS.index(wing(other)) < WINGS.index(wing(name))
            assert not above, f"{name} imports {other}, which the map places above it"


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: imported(path) - {name} for path, name in ROOMS.items()}
    for name in list(graph):  # a door imports its rooms; a room does not enter by its own door
        graph[name] = {other for other in graph[name] if not name.startswith(other + ".")}
    tuple(TopologicalSorter(graph).static_order())


def test_a_room_does_not_enter_by_its_own_door() -> None:
    for path, name in ROOMS.items():
        door = name.rpartition(".")[0]
        assert door == "batchgen" or door not in imported(path), f"{name} imports {door}"


def test_the_engine_knows_nothing_of_shards_or_workers() -> None:
    allowed = {"engine", "errors", "settings", "manifest", "model"}
    allowed |= {"durable", "process", "checked_json"}
    for path in (PACKAGE / "engine").rglob("*.py"):
        assert {wing(name) for name in imported(path)} - {""} <= allowed, path.name


DOORS = [path for path in ROOMS if path.name == "__init__.py" and path.parent != PACKAGE]


@pytest.mark.parametrize("door", DOORS, ids=lambda path: path.parent.name)
def test_the_map_of_a_folder_lists_its_rooms_in_the_order_of_their_imports(door: Path) -> None:
    folder, name = door.parent, ROOMS[door]
    order = listed(ast.get_docstring(ast.parse(door.read_text()), clean=False))
    there = {path.stem for path in folder.glob("*.py")} | {
        path.parent.name for path in folder.glob("*/__init__.py")
    }
    assert sorted(set(order) - {"tiny"}) == sorted(there - {"__init__"})
    for path in folder.rglob("*.py"):
        room = ROOMS[path].removeprefix(name).split(".")
        for other in imported(path) if len(room) > 1 else ():
            if other.startswith(name + "."):
                below = other.removeprefix(name).split(".")[1]
                assert order.index(below) >= order.index(room[1]), f"{ROOMS[path]} imports {other}"


def test_only_the_launch_wing_imports_submitit() -> None:
    pattern = re.compile(r"^\s*(import|from) submitit", re.MULTILINE)
    users = sorted(name for path, name in ROOMS.items() if pattern.search(path.read_text()))
    assert {wing(name) for name in users} == {"launch"}, users


def test_planning_and_status_import_no_torch() -> None:
    code = (
        "import sys, batchgen.planning, batchgen.run, batchgen.view.show_status,"
        "batchgen.view.watch, batchgen.launch.slurm_array, batchgen.worker.main;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
