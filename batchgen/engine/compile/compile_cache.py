"""The compile cache: one process compiles, and all others, now and in later runs, load its code.

An archive (archive.py) holds the folders in which Inductor and Triton keep their output. Its name
is a hash of everything that decides the code: software, environment, CPU, the engine's own source,
and the caller's facts (device, precision, layout, shapes, the model's configuration).

    with CompileCache(folder, facts) as code:      # load the archive, or be the one to compile
        blocks.warm(run, sizes)                    # takes a fifth of the time if code was loaded
    code.sha256                                    # code that was compiled here is published now

Each process unpacks the archive to a private folder on the node's own disk. Processes therefore
never share a folder that is being written, and code that one of them compiles beyond its archive
does not reach the others.

A claim file decides who compiles. It only saves time: a process that finds the owner of the claim
dead, or without a sign of life for `wait_s`, compiles as well. The owner gives signs by touching
its claim, which is seen from other machines too. Archives appear by one link, so two publishers do
no harm: the first one's archive counts.

Not promised: two processes that compile at the same time may hold different code if kernels are
tuned by measuring. Old archives are not removed; the folder may be deleted between runs.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import math
import os
import platform
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from batchgen import durable
from batchgen.checked_json import digest
from batchgen.engine.compile.archive import unpack_archive, write_archive
from batchgen.errors import JobError
from batchgen.process import Process

FOLDER = Path("~/.cache/batchgen/compile")
# So long is a silent owner waited for. Much longer than file systems take to show its signs.
WAIT_S = 900.0

_ENGINE = Path(__file__).parents[1]
_POLL_S = 1.0
_SIGN_S = 30.0
_PRIVATE = "batchgen-compile-"
# Environment variable → folder in the archive.
_CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
_PACKAGES = ("torch", "triton", "torchao", "diffusers")
# Environment variables that change the code begin with these, or are among the compilers' own.
_STEERING = ("TORCHINDUCTOR_", "TORCHDYNAMO_", "TORCH_COMPILE_", "TRITON_")
_COMPILERS = {"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPATH"}
_HARMLESS = {*_CACHES, "TORCHINDUCTOR_COMPILE_THREADS"}

_log = logging.getLogger(__name__)


class CompileCache:
    """One archive during a warm-up: loaded before it, or made in it and published after it."""

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        *,
        rank: int = 0,
        ranks: int = 1,
        agree: Callable[[bool], bool] = lambda found: found,
        before_wait: Callable[[], None] = lambda: None,
        wait_s: float = WAIT_S,
        limit_s: float = math.inf,
    ) -> None:
        """Compute the key. Nothing else happens before the `with` block.

        :param folder: of the archives; made if it does not exist.
        :param facts: everything but software that decides the code, as JSON types, the same on
            all ranks.
        :param rank: of this process in its replica. Each rank has an archive of its own. A replica
            loads all of them or makes all of them.
        :param agree: gives rank 0's decision to all ranks. The others may wait in it for `limit_s`.
        :param before_wait: called before this process waits for another one that compiles.
        :param wait_s: the longest wait without a sign of life of another process that compiles.
        :param limit_s: the longest wait for it in any case.
        """
        self.facts = {**facts, "ranks": ranks, "software": compiler_software()}
        self.key = digest(self.facts)[:32]
        self.loaded = False
        # Of the archive, once there is one. Records name the code that made a picture by it.
        self.sha256 = ""
        self._folder, self._rank, self._ranks = folder.expanduser(), rank, ranks
        self._agree, self._before_wait = agree, before_wait
        self._wait_s, self._limit_s = wait_s, limit_s
        self._claim: Path | None = None
        self._finished = threading.Event()

    def __enter__(self) -> CompileCache:
        """Give Inductor and Triton private folders, filled from the archive if there is one.

        :raises JobError: the folder cannot be used, or the archive is not to be trusted.
        """
        self.loaded = self._agree(self._rank == 0 and self._find())
        self._code = _make_private_folder() / "code"
        for variable, name in _CACHES.items():
            os.environ[variable] = str(self._code / name)
            (self._code / name).mkdir(parents=True)
        if self.loaded:
            self.sha256 = unpack_archive(self._archive(self._rank), self.key, self._code)
        elif self._claim is not None:
            threading.Thread(target=self._give_signs, args=[self._claim], daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Publish the code if it was compiled here. In any case, let waiting processes go on.

        :raises JobError: there is no space for the archive, or no right to write it.
        """
        self._finished.set()
        try:
            if kind is None and not self.loaded:
                facts = json.dumps(self.facts, indent=1, sort_keys=True)
                (self._code / "facts.json").write_text(facts)
                with self._named_in_errors():
                    self.sha256 = write_archive(self._code, self.key, self._archive(self._rank))
        finally:
            if self._claim is not None:
                # Where nothing can be written, the end of this process tells the others.
                with contextlib.suppress(OSError):
                    durable.create(_released(self._claim), b"")

    def _archive(self, rank: int) -> Path:
        return self._folder / f"{self.key}.{rank}.archive"

    def _is_complete(self) -> bool:
        return all(self._archive(rank).exists() for rank in range(self._ranks))

    def _find(self) -> bool:
        """Whether all archives are there, after waiting for them if need be. If not: compile."""
        begin = silent_since = time.monotonic()
        waits = False
        with self._named_in_errors():
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            signs = self._signs()
            while not self._is_complete():
                if self._claim_compilation():
                    # The previous owner may have published after the look in the line above.
                    return self._is_complete()
                if not waits:
                    self._before_wait()
                waits = True
                now, before = time.monotonic(), signs
                if (signs := self._signs()) != before:
                    silent_since = now
                if now > min(silent_since + self._wait_s, begin + self._limit_s):
                    told = "waited %.0f s for code that another process compiles; compiling it too"
                    _log.warning(told, now - begin)
                    return False
                time.sleep(_POLL_S)
        return True

    def _claim_compilation(self) -> bool:
        """Claim the compilation, unless the owner of an earlier claim may still be at it."""
        attempt = 1
        while (claim := self._folder / f"{self.key}.claim.{attempt:04d}").exists():
            if not _released(claim).exists() and _owner_may_live(claim):
                return False
            attempt += 1
        if not _create_claim(claim):
            return False
        self._claim = claim
        return True

    def _give_signs(self, claim: Path) -> None:
        """Tell waiting processes that this one is still compiling."""
        while not self._finished.wait(_SIGN_S):
            with contextlib.suppress(OSError):
                os.utime(claim)

    def _signs(self) -> list[tuple[Path, int]]:
        """What changes as long as a process compiles. No clock is compared with another's."""
        claims = sorted(self._folder.glob(f"{self.key}.claim.*"))
        return [(claim, claim.stat().st_mtime_ns) for claim in claims]

    @contextlib.contextmanager
    def _named_in_errors(self) -> Iterator[None]:
        """Turn an OSError into a JobError that names the setting and the folder."""
        try:
            yield
        except OSError as error:
            raise JobError(
                f"run.compile_cache: {self._folder} cannot be used: {error}. "
                "Name a folder that you can write to, with space for archives."
            ) from None


def compiler_software() -> dict[str, Any]:
    """Everything that decides compiled code and is in no job file.

    That is: versions, environment variables, the CPU, and the engine's own source.
    """
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    source = hashlib.sha256()
    for path in sorted(_ENGINE.rglob("*.py")):
        source.update(f"{path.relative_to(_ENGINE)}\0{path.read_text(encoding='utf-8')}\0".encode())
    environment = {
        name: value
        for name, value in os.environ.items()
        if (name.startswith(_STEERING) or name in _COMPILERS) and name not in _HARMLESS
    }
    return {
        "python": platform.python_version(),
        "versions": versions,
        "environment": environment,
        "cpu": _cpu(),
        "engine": source.hexdigest(),
    }


def _cpu() -> str:
    """The CPU's instruction set. Code for a CPU is compiled for exactly that set."""
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8", errors="replace") if info.exists() else ""
    flags = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    hashed = hashlib.sha256((flags or [platform.processor()])[0].encode()).hexdigest()
    return f"{platform.machine()} {hashed[:16]}"


def _create_claim(path: Path) -> bool:
    """Write who this process is; False if the file exists."""
    claim = {"owner": asdict(Process.me()), "at": time.time()}
    return durable.create(path, json.dumps(claim).encode())


def _owner_may_live(claim: Path) -> bool:
    """False only if the owner is known to be dead. On another host it is not known."""
    return Process(**json.loads(claim.read_bytes())["owner"]).life() != "dead"


def _released(claim: Path) -> Path:
    """The file that says that the owner of the claim has finished."""
    return claim.with_name(f"{claim.name}.free")


def _make_private_folder() -> Path:
    """An empty folder on the node's own disk, removed when this process ends.

    Folders that killed processes left behind are removed now.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        # A folder that is being made or removed, or another version's, has no readable claim.
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            if path.stat().st_uid == os.geteuid() and not _owner_may_live(path / "owner.json"):
                shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE))
    _create_claim(folder / "owner.json")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
