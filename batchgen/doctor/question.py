"""What a node is asked: the job of a node examines it, and answers in the shared folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from batchgen import durable, slurm
from batchgen.doctor.examine import examine
from batchgen.doctor.finding import Finding
from batchgen.doctor.links import between_nodes
from batchgen.doctor.machine import same_software
from batchgen.doctor.needs import Needs
from batchgen.settings import Site
from batchgen.settings.job import parse_job

# Of what node and submitter write for each other.
BYTES = 1 << 20
# A new file may appear late on a network file system.
PATIENCE_S, _POLL_S = 15.0, 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """What the job of a node calls. The node imports this class and answers in the folder."""

    shared: str
    # The folder of runs.
    root: str
    # As TOML; "" without a job.
    job: str
    site: Site
    # Package → version, where it was submitted.
    software: Mapping[str, str]
    # Of what the submitter has written into the shared folder.
    sha256: str
    # Whether other nodes are asked too.
    several: bool = False

    def __call__(self) -> None:
        """Examine this node, and answer."""
        shared, name = Path(self.shared), slurm.node()
        saw = wait_for_bytes(shared / "submitter.bytes", self.sha256, PATIENCE_S)
        own = os.urandom(BYTES)
        durable.write(shared / f"{name}.bytes", own)
        won = durable.link(shared / f"{name}.bytes", shared / "winner")
        job = parse_job(tomllib.loads(self.job), "the job") if self.job else None
        findings = [one.on(name) for one in same_software(self.software)]
        needs = Needs(job, self.site)
        for finding in self._examined(name, needs):
            findings.append(finding)
            # Should the job end before it answers, its log says how far it came.
            sys.stdout.write(f"after {finding.name}: {finding.found}\n")
            sys.stdout.flush()
        answer = {
            "findings": [finding.as_dict() for finding in findings],
            "saw": saw,
            "wrote": hashlib.sha256(own).hexdigest(),
            "won": won,
        }
        durable.create(shared / f"{name}.answer", json.dumps(answer).encode())

    def _examined(self, name: str, needs: Needs) -> Iterator[Finding]:
        """This node alone, and together with another one."""
        yield from examine(Path(self.root), needs)
        if self.several and not needs.rehearses:
            yield between_nodes(Path(self.shared), name, needs).on(name)


def wait_for_bytes(path: Path, sha256: str, patience_s: float) -> str:
    """The SHA-256 of a file of another machine, once it is this one or patience is over."""
    end = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError):
            if (seen := hashlib.sha256(path.read_bytes()).hexdigest()) == sha256:
                return seen
        if time.monotonic() > end:
            return ""
        time.sleep(_POLL_S)
