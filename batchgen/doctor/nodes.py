"""Every node of a site is asked: a job of its own examines it, and answers in a shared folder.

Node and submitter each read bytes that the other has written, and all nodes try to link one name:
exactly one may get it, for on this rests that no picture is published twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from batchgen import durable, slurm
from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.doctor.folders import PRIVATE, existing
from batchgen.doctor.models import located
from batchgen.doctor.question import BYTES, Question, wait_for_bytes
from batchgen.errors import SchedulerSilent, SiteError, counted, printable, shell_command
from batchgen.launch.node_jobs import nodes_of, submit_to_node
from batchgen.planning.identity import software
from batchgen.run import refuse_letters
from batchgen.settings import Job, Site, to_toml

# Minutes that SLURM gives each job.
LIMIT_MIN = 15
# A job may appear late in squeue, and its answer late on a network file system.
PATIENCE_S = 15.0
_POLL_S, _LISTING_S = 0.5, 5.0


@dataclass
class _Asked:
    """The nodes that were asked, and what became of each."""

    shared: Path
    sha256: str
    # Node → job.
    jobs: dict[str, str] = field(default_factory=dict)
    # Node → since when squeue lacks its job.
    missing: dict[str, float] = field(default_factory=dict)
    won: dict[str, bool] = field(default_factory=dict)
    # By job: its line in the last listing.
    listed: dict[str, slurm.QueuedJob] = field(default_factory=dict)
    next_listing: float = 0.0


def examine_nodes(
    site: Site, job: Job | None, folder: Path, say: Callable[[str], None], *, limit_s: float
) -> Iterator[list[Finding]]:
    """Examine every node that a run on this site may get: all findings of a node as it answers.

    Jobs that have not ended when this is left, for whatever reason, are cancelled.

    :param folder: of runs; every node has to see it.
    :param say: called with how far it is.
    :param limit_s: seconds to wait for answers.
    :raises SiteError: SLURM refuses the job on every node, or there is no node.
    :raises SchedulerSilent: SLURM cannot be asked.
    :raises OutputError: SLURM would read the folder's path differently.
    """
    with _shared_folder(folder) as shared:
        own = os.urandom(BYTES)
        durable.write(shared / "submitter.bytes", own)
        asked = _Asked(shared, hashlib.sha256(own).hexdigest())
        text = to_toml(located(job)) if job else ""
        root = str(Path(os.path.abspath(folder.expanduser())))  # noqa: PTH100 - the nodes' name
        question = Question(str(shared), root, text, site, software(), asked.sha256)
        try:
            yield from _submit(site, question, asked, say)
            yield from _wait(asked, say, limit_s)
        finally:
            _cancel(asked)
        yield from _one_winner(asked)


@contextlib.contextmanager
def _shared_folder(folder: Path) -> Iterator[Path]:
    """A folder of this examination, beside the runs to come."""
    shared = Path(tempfile.mkdtemp(prefix=PRIVATE, dir=existing(folder)))
    try:
        refuse_letters(shared)
        yield shared
    finally:
        shutil.rmtree(shared, ignore_errors=True)


def _submit(
    site: Site, question: Question, asked: _Asked, say: Callable[[str], None]
) -> Iterator[list[Finding]]:
    """Submit a job for each node; nodes that take none are told."""
    nodes, refused = nodes_of(site), dict[str, str]()
    if not nodes:
        where = f"partition {site.partition}" if site.partition else "the default partition"
        raise SiteError(f"{where} has no node that the site profile allows. sinfo lists them")
    several = sum(not node.away for node in nodes) > 1
    question = replace(question, several=several)
    for node in nodes:
        if node.away:
            told = f"SLURM says {node.state}" + (f": {node.reason}" if node.reason else "")
            remedy = shell_command("scontrol", "show", "node", node.name)
            yield [warning("node", told, f"Runs are not sent there. {remedy}").on(node.name)]
            continue
        say(f"submitting to {node.name}")
        try:
            asked.jobs[node.name] = submit_to_node(
                site, asked.shared, node.name, question, limit_min=LIMIT_MIN
            )
        except SiteError as error:
            refused[node.name] = str(error)
    if refused and not asked.jobs:
        raise SiteError(f"SLURM refuses the job on every node: {next(iter(refused.values()))}")
    for name, why in refused.items():
        remedy = "Runs are not sent there. Another site profile would be"
        yield [warning("node", f"SLURM refuses the job there: {why}", remedy).on(name)]


def _wait(asked: _Asked, say: Callable[[str], None], limit_s: float) -> Iterator[list[Finding]]:
    """The findings of each node as it answers; at last, what is known of those that do not."""
    waiting, end = set(asked.jobs), time.monotonic() + limit_s
    while waiting and time.monotonic() < end:
        for node in sorted(waiting):
            findings = _read_answer(asked, node) or _has_ended(asked, node)
            if findings:
                waiting.remove(node)
                yield findings
        say(_progress(asked, waiting))
        _list_jobs(asked)
        time.sleep(_POLL_S)
    for node in sorted(waiting):
        yield [_no_answer(asked, node, limit_s).on(node)]


def _progress(asked: _Asked, waiting: set[str]) -> str:
    """For example `3 of 4 nodes have answered; node7 waits (Resources)`."""
    told = f"{len(asked.jobs) - len(waiting)} of {counted(len(asked.jobs), 'node')} have answered"
    for node in sorted(waiting)[:1]:
        job = asked.listed.get(asked.jobs[node])
        state = f"waits ({job.reason})" if job and job.waits else "is examined" if job else "begins"
        told += f"; {node} {state}"
    return told


def _list_jobs(asked: _Asked) -> None:
    """Ask squeue, now and then."""
    now = time.monotonic()
    if now < asked.next_listing:
        return
    asked.next_listing = now + _LISTING_S
    with contextlib.suppress(SchedulerSilent):
        asked.listed = {job.id: job for job in slurm.list_jobs()}
        for node, job in asked.jobs.items():
            if job in asked.listed:
                asked.missing.pop(node, None)
            else:
                asked.missing.setdefault(node, now)


def _read_answer(asked: _Asked, node: str) -> list[Finding]:
    """What a node has answered, and whether both see the same bytes; [] if it has not yet."""
    try:
        answer = json.loads((asked.shared / f"{node}.answer").read_bytes())
    except FileNotFoundError:
        return []
    asked.won[node] = answer["won"]
    findings = [Finding(**told) for told in answer["findings"]]
    saw = wait_for_bytes(asked.shared / f"{node}.bytes", answer["wrote"], PATIENCE_S)
    if (answer["saw"], saw) == (asked.sha256, answer["wrote"]):
        same = ok("shared_folder", f"sees the bytes of {slurm.node()}, and the other way round")
    else:
        told = f"the node and {slurm.node()} see different bytes in one file of {asked.shared}"
        same = failed("shared_folder", told, "Put runs on another file system, with --out")
    return [same.on(node), *findings]


def _has_ended(asked: _Asked, node: str) -> list[Finding]:
    """A failure, if a node's job has ended and its answer had time to appear."""
    since = asked.missing.get(node)
    if since is None or time.monotonic() < since + PATIENCE_S:
        return []
    with contextlib.suppress(SchedulerSilent):
        known: list[slurm.Remembered] = slurm.remembered(asked.jobs[node])
        if any(job.state not in slurm.ENDED for job in known):
            return []
        said = "".join(f" (SLURM says {job.state}, {job.reason})" for job in known[:1])
        log = _last_line(asked, node)
        told = f"its job ended without an answer{said}" + (f": {log}" if log else "")
        if not log:
            told += f". The node does not see {asked.shared.parent}, or may not write there"
        remedy = "Put runs on a file system that every node sees under this name, writable: --out"
        return [failed("node", told, remedy).on(node)]
    return []


def _no_answer(asked: _Asked, node: str, limit_s: float) -> Finding:
    """What is known of a node that did not answer in time."""
    job = asked.listed.get(asked.jobs[node])
    if job and job.waits:
        told = f"its job did not start within {limit_s:.0f} s: {job.state}, {job.reason}"
        return warning("node", told, "Wait longer: --wait SECONDS; squeue --me shows the queue")
    log = _last_line(asked, node)
    told = f"its job gave no answer within {limit_s:.0f} s" + (f": {log}" if log else "")
    return failed("node", told, shell_command("scontrol", "show", "node", node))


def _last_line(asked: _Asked, node: str) -> str:
    """The last line of a node's log; "" if there is none."""
    lines = [
        line
        for path in sorted(asked.shared.glob(f"{asked.jobs[node]}_*log.*"))
        for line in path.read_text(errors="replace").splitlines()
        if line.strip()
    ]
    return printable(lines[-1].strip())[:300] if lines else ""


def _one_winner(asked: _Asked) -> Iterator[list[Finding]]:
    """Whether exactly one of the nodes has linked the name that all of them wanted."""
    won = [node for node, name in asked.won.items() if name]
    if len(asked.won) < 2:
        return
    tried = f"of {counted(len(asked.won), 'node')} that linked one name"
    if len(won) == 1 or (not won and len(asked.won) < len(asked.jobs)):
        finding = ok("one_winner", f"{tried}, {won[0] if won else 'a silent one'} got it")
    else:
        told = f"{tried}, {', '.join(won) or 'none'} got it: two workers could publish one shard"
        finding = failed("one_winner", told, "Put runs on another file system, with --out")
    yield [finding.on(slurm.node())]


def _cancel(asked: _Asked) -> None:
    """Cancel the jobs that have not ended."""
    mine = set(asked.jobs.values())
    with contextlib.suppress(SchedulerSilent):  # their time limit ends them
        slurm.cancel([job for job in slurm.list_jobs() if job.id in mine], waiting_only=False)
