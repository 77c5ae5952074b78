"""Mutated run directories: state files, published files and the plan of two small runs.

One run is complete, and the worker of the other one was killed in the middle. A copy with one
mutation is asked for its status, verified, resumed and verified again. Whatever these answer, a
run that is called complete and sound at last has the very files that the plan asks for.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.run import submissions
from batchgen.run.run import create
from batchgen.settings import load_job
from benchmarks.mutations.hostile import mutate_file, mutated_bytes, mutated_json, strange_file
from benchmarks.mutations.trial import Answers, Trial
from benchmarks.mutations.workers import work

_PICTURES, _SHARD, _GROUP = 14, 4, 2
# The worker of the second run dies when it begins this group, in the middle of a shard.
_DEADLY_GROUP = 4
_KEPT = ("key", "row", "image", "id", "prompt", "seed", "width", "height", "outcome", "extra")
SETTINGS = [
    *("engine.kind=pattern", "sampling.width=16", "sampling.height=16", "sampling.steps=2"),
    *(f"engine.batch_size={_GROUP}", f"shards.pictures={_SHARD}", "run.workers=1"),
]


def prepare(folder: Path) -> None:
    """Make both runs, each by a process of its own, which is dead afterwards."""
    for name, deadly in (("complete", 0), ("killed", _DEADLY_GROUP)):
        process = multiprocessing.get_context("spawn").Process(
            target=_make, args=(folder / name, deadly)
        )
        process.start()
        process.join()
    assert (folder / "complete" / "index.json").exists()
    assert any((folder / "killed" / ".batchgen" / "partial").glob("*/*.journal"))


def _make(root: Path, deadly: int) -> None:
    """Make a run.

    :param deadly: the process dies when it begins this group; 0 for never.
    """
    from batchgen.engine.pattern import PatternEngine

    manifest = _write_manifest(root)
    run, _ = create(root, [manifest], load_job(None, SETTINGS), None)
    submission = submissions.record_submission(run.directory, ["batchgen", "submit"], workers=1)
    (run.directory.logs / "0001-worker-000.log").write_text("shard 000000, attempt 1\n")
    if deadly:
        groups, denoise = iter(range(1, deadly)), PatternEngine.denoise
        PatternEngine.denoise = lambda engine, group: (
            denoise(engine, group) if next(groups, None) else os._exit(9)
        )
    work(run.directory, submission)


def _write_manifest(root: Path) -> Path:
    """A Parquet manifest for one run, JSON lines for the other, of the same rows."""
    rows = [{"prompt": f"a cat {n}", "id": f"c{n}", "topic": f"t{n % 3}"} for n in range(_PICTURES)]
    if root.name == "complete":
        path = root.with_name("prompts.parquet")
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    path = root.with_name("prompts.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def trial(chance: Random, folder: Path, prepared: Path) -> Trial:
    """A copy of a run with one mutation."""
    name = chance.choice(("complete", "killed"))
    root = folder / "run"
    shutil.copytree(prepared / name, root, symlinks=True)
    path = _choose(chance, root)
    where = path.relative_to(root)
    if path.is_dir() or chance.random() < 0.25:
        about = strange_file(chance, path)
    else:
        mutate = mutated_json if path.suffix == ".json" else mutated_bytes
        about = mutate_file(chance, path, mutate, strange=0.0)
    return Trial(
        f"{name} run, {where}: {about}",
        [
            *(["status", root, "--json"], ["status", root], ["logs", root, "--failed"]),
            *(["verify", root, "--deep"], ["resume", root, "--detach"]),
            *(["status", root, "--json"], ["verify", root, "--deep"]),
        ],
        wrong_always=lambda answers: _wrong(answers, root, prepared / "complete"),
    )


def _choose(chance: Random, root: Path) -> Path:
    """A file or folder of a run; its kind first, so that each kind is met alike."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        relative = path.relative_to(root)
        folder = path.is_dir()
        kind = f"{relative.parts[: 3 if relative.parts[0] == '.batchgen' else 1]}"
        key = "folders" if folder else f"{kind[:20]} {path.suffix}"
        kinds.setdefault(key, []).append(path)
    important = [root / ".batchgen" / "plan.json", *root.glob(".batchgen/done/*/*")]
    if chance.random() < 0.15:
        return chance.choice(important)
    return chance.choice(kinds[chance.choice(sorted(kinds))])


def _wrong(answers: Answers, root: Path, reference: Path) -> str:
    """A run that is called complete and sound although its files are not; "" otherwise."""
    for status, verify in ((answers[0], answers[3]), (answers[-2], answers[-1])):
        called_complete = status.code == 0 and _state(status.out) == "complete"
        if called_complete and verify.code == 0:
            return differs(root, reference)
    return ""


def _state(out: str) -> Any:
    try:
        return json.loads(out)["state"]
    except (ValueError, KeyError):
        return ""


def differs(root: Path, reference: Path) -> str:
    """How the published files of a run differ from an undisturbed one's."""
    mine, theirs = _tar_hashes(root), _tar_hashes(reference)
    if mine != theirs:
        names = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
        return f"called complete and sound, and the tars {names} are not the planned ones"
    if _records(root) != _records(reference):
        return "called complete and sound, and the records are not those of the planned pictures"
    return ""


def _tar_hashes(root: Path) -> dict[str, str]:
    tars = sorted(path for path in root.glob("data/*") if path.is_file())
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in tars}


def _records(root: Path) -> list[dict[str, Any]]:
    rows = [
        row
        for path in sorted(root.glob("metadata/*.parquet"))
        for row in pq.read_table(path).to_pylist()
    ]
    return [{name: row.get(name) for name in _KEPT} for row in rows]
