"""Jobs that were submitted by 0.1 and still wait in SLURM hold old module names, which work."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from batchgen.launch.local import work
from batchgen.launch.slurm_array import Element
from batchgen.run.submissions import record_submission
from tests.support.specimens import planned

FIELDS = {"root": "/runs/one", "number": 3, "tasks": 8, "ranks": 2}


def pickled(module: str, name: str, state: dict[str, object] | None = None) -> bytes:
    """What pickle writes for a global of a module, or for an instance of it with `state`."""
    words = [pickle.SHORT_BINUNICODE + bytes([len(w)]) + w.encode() for w in (module, name)]
    text = [pickle.PROTO + b"\x04", *words, pickle.STACK_GLOBAL]
    if state is not None:
        values = pickle.dumps(state, protocol=4)[2:].removesuffix(pickle.STOP)
        text += [pickle.EMPTY_TUPLE, pickle.NEWOBJ, values, pickle.BUILD]
    return b"".join([*text, pickle.STOP])


def test_an_old_pickle_of_an_element_loads_as_the_new_element() -> None:
    assert pickle.loads(pickled("batchgen.submit", "Element", FIELDS)) == Element(**FIELDS)


def test_what_an_old_supervisor_starts_is_found() -> None:
    assert pickle.loads(pickled("batchgen.submit", "start")) is work


def test_the_pickles_of_this_test_are_written_as_pickle_writes_them() -> None:
    written = pickled("batchgen.launch.slurm_array", "Element", FIELDS)
    assert pickle.loads(pickle.dumps(Element(**FIELDS))) == pickle.loads(written)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "arguments", "answer"),
    [
        ("arrive", "node_check", ["ID", "1"], (0, "")),
        (
            "requeue",
            "requeue",
            ["1", "0", "0"],
            (1, "batchgen: element 0 ends: none of its workers"),
        ),
        ("supervisor", "supervisor", ["1"], (0, "")),
    ],
)
def test_a_command_answers_by_its_old_name_as_by_its_new_one(
    old: str, new: str, arguments: list[str], answer: tuple[int, str], tmp_path: Path
) -> None:
    run = planned(tmp_path)
    record_submission(run.directory, [], workers=0)
    given = [str(run.directory.root), *(word.replace("ID", run.plan.run) for word in arguments)]
    for module in (f"batchgen.{old}", f"batchgen.launch.{new}"):
        command = [sys.executable, "-m", module, *given]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        code, told = answer
        assert done.returncode == code
        assert done.stderr.startswith(told)
        assert told or not done.stderr
