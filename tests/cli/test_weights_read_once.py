"""A command reads from every weight file once: planning waits for these reads on a shared disk."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from batchgen.cli import making
from batchgen.model import checkpoint, component_reader
from tests.support.full_size import FILES, write_full_size
from tests.support.nvidia_driver import Driver
from tests.support.rehearsal import ask, settings, write_prompts

Reads = Counter[tuple[str, str]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Counts what is read of which weight file: its header, or its digest."""
    counts: Reads = Counter()

    def counted(what: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def call(path: Path) -> Any:
            if path.suffix == ".safetensors":
                counts[what, f"{path.parent.name}/{path.name}"] += 1
            return read(path)

        return call

    for room, what in ((component_reader, "read_header"), (checkpoint, "digest")):
        monkeypatch.setattr(room, what, counted(what, getattr(room, what)))
    return counts


def test_plan_and_submit_read_each_header_and_digest_each_file_once(
    tmp_path: Path, driver: Driver, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second submit continues the run of the first one."""
    driver("GPU-aa, 81559, 9.0, NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(making, "go", lambda *_, **__: None)
    file = write_prompts(tmp_path / "p.parquet", ["a cat"] * 8)
    size = {"sampling__width": 1024, "sampling__height": 1024}
    job = settings(model__path=write_full_size(tmp_path / "flux-dev"), **size)
    submit = ["submit", "--out", tmp_path / "run"]
    once = {
        (what, f"{component}/{name}"): 1
        for what in ("read_header", "digest")
        for component, name in FILES.items()
    }
    for verb in (["plan"], submit, submit):
        answer = ask(*verb, file, *job)
        assert (answer.code, answer.err) == (0, "")
        assert reads == once
        reads.clear()
