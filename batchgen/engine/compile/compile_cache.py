"""The compiled code that outlives the process: one process compiles, and all others, now and in later runs, load.

An archive (archive.py) holds the folders in which inductor and Triton keep what they made. Its name is a hash of all that decides the
code: software, environment, CPU, the engine's own source, and what the caller adds (device, precision, layout, shapes, the model's
configuration).

    with CompiledCode(folder, facts) as code:      # loads the archive, or waits for who is making it, or is told to make it
        blocks.warm(run, sizes)                    # a fifth of the time if it was loaded
    code.sha256                                    # published here if it was not loaded

It is unpacked to a folder of this process alone, on the node's own disk: processes do not share a folder that is being written, and
what one makes beyond its archive does not reach another. Who compiles is agreed by a claim file, which saves time and decides nothing
(claims.py): whoever has waited for `wait_s`, or sees that the owner of the claim is dead, compiles. Archives appear by one link, so two
publishers are harmless: the first one's counts.

Not promised: that two processes that compiled at the same time hold the same code, if kernels are tuned by measuring. Old archives are
not removed; the folder may be deleted between runs.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from batchgen import durable
from batchgen.engine.compile.archive import unpack_archive, write_archive
from batchgen.errors import JobError
from batchgen.process import Process

FOLDER = Path("~/.cache/batchgen/compile")
WAIT_S = 900.0  # tuning the kernels of a large model takes minutes

_POLL_S = 1.0
_PRIVATE = "batchgen-compile-"  # how private folders' names begin
_CACHES = {
    "TORCHINDUCTOR_CACHE_DIR": "inductor",
    "TRITON_CACHE_DIR": "triton",
}  # environment variable → folder in the archive
_PACKAGES = ("torch", "triton", "torchao", "diffusers")
_STEERING = (
    "TORCHINDUCTOR_",
    "TORCHDYNAMO_",
    "TORCH_COMPILE_",
    "TRITON_",
)  # how variables begin that change what is compiled
_COMPILERS = {"CC", "CXX", "CFLAGS", "CXXFLAGS", "CPATH"}
_HARMLESS = {*_CACHES, "TORCHINDUCTOR_COMPILE_THREADS"}

_log = logging.getLogger(__name__)


class CompileCache:
    """The archive of one key, for the time of the warm-up: loaded before it, or made in it and published after."""

    def __init__(
        self,
        folder: Path,
        facts: Mapping[str, Any],
        *,
        rank: int = 0,
        ranks: int = 1,
        agree: Callable[[bool], bool] = lambda found: found,
        wait_s: float = WAIT_S,
    ) -> None:
        """Nothing happens yet.

        :param folder: where archives lie; made if it is not there.
        :param facts: all that decides the code and is not software, in JSON types, the same on all ranks.
        :param rank: of this process in its replica. Each rank has its own archive; a replica loads all of them or makes all of them.
        :param agree: hands rank 0's word to all ranks. They may have to wait there for `wait_s`, and rank 0 may raise instead.
        :param wait_s: so long another process's compilation is waited for.
        """
        self.facts = {**facts, "ranks": ranks, "software": compiler_software()}
        self.key = hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()[:32]
        self.loaded = False
        self.sha256 = ""  # the archive's, once there is one: it names the code that made a picture
        self._folder, self._rank, self._ranks = folder.expanduser(), rank, ranks
        self._agree, self._wait_s = agree, wait_s
        self._claim: Path | None = None

    def __enter__(self) -> CompileCache:
        """From now on inductor and Triton use private folders, filled from the archive if there is one.

        :raises JobError: the folder cannot be used, or the archive is not to be trusted.
        """
        self.loaded = self._agree(self._find() if self._rank == 0 else False)
        self._code = _private_folder() / "code"
        for variable, name in _CACHES.items():
            os.environ[variable] = str(self._code / name)
            (self._code / name).mkdir(parents=True)
        if self.loaded:
            self.sha256 = unpack_archive(self._archive(self._rank), self.key, self._code)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Publish what was made; whatever happened, nobody need wait for this process any longer.

        :raises JobError: there is no room for the archive, or no right to write it.
        """
        try:
            if error is None and not self.loaded:
                (self._code / "facts.json").write_text(
                    json.dumps(self.facts, indent=1, sort_keys=True)
                )
                self.sha256 = write_archive(self._code, self.key, self._archive(self._rank))
        except OSError as full:
            raise _unusable(self._folder, full) from None
        finally:
            if self._claim is not None:
                with contextlib.suppress(
                    OSError
                ):  # where nothing can be written, this process's end tells the others
                    durable.create(_freed(self._claim), b"")

    def _archive(self, rank: int) -> Path:
        return self._folder / f"{self.key}.{rank}.archive"

    def _there(self) -> bool:
        return all(self._archive(rank).exists() for rank in range(self._ranks))

    def _find(self) -> bool:
        """Whether the archives are there, possibly after waiting for them. If not, this process makes them."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            patience = time.monotonic() + self._wait_s
            while not self._there():
                if self._take_turn():
                    return (
                        self._there()
                    )  # the one before may have published between our look and our claim
                if time.monotonic() > patience:
                    _log.warning(
                        "waited %.0f s for code that another process was compiling; now compiling too",
                        self._wait_s,
                    )
                    return False
                time.sleep(_POLL_S)
        except OSError as error:
            raise _unusable(self._folder, error) from None
        return True

    def _take_turn(self) -> bool:
        """Claim the compilation, unless somebody has who may still be at it."""
        attempt = 1
        while (claim := self._folder / f"{self.key}.claim.{attempt:04d}").exists():
            if _at_it(claim):
                return False
            attempt += 1
        if not durable.create(
            claim, json.dumps({"owner": asdict(Process.me()), "at": time.time()}).encode()
        ):
            return False
        self._claim = claim
        return True


def compiler_software() -> dict[str, Any]:
    """All that decides compiled code and is in no job file: versions, environment, CPU, and the engine's own source."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = ""
    source = hashlib.sha256()
    engine = Path(__file__).parent
    for path in sorted(engine.rglob("*.py")):
        source.update(f"{path.relative_to(engine)}\0{path.read_text(encoding='utf-8')}\0".encode())
    steering = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_STEERING) or name in _COMPILERS
    }
    return {
        "python": platform.python_version(),
        "versions": versions,
        "environment": {name: value for name, value in steering.items() if name not in _HARMLESS},
        "cpu": _cpu(),
        "engine": source.hexdigest(),
    }


def _cpu() -> str:
    """The processor's instruction set: code for the CPU is compiled for just this one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next(
        (line for line in lines if line.startswith(("flags", "Features"))), platform.processor()
    )
    return f"{platform.machine()} {hashlib.sha256(flags.encode()).hexdigest()[:16]}"


def _at_it(claim: Path) -> bool:
    """Whether the owner of a claim may still be compiling."""
    return (
        not _freed(claim).exists()
        and Process(**json.loads(claim.read_bytes())["owner"]).life() != "dead"
    )


def _freed(claim: Path) -> Path:
    return claim.with_name(f"{claim.name}.free")


def _private_folder() -> Path:
    """An empty folder of this process, on the node's own disk, which goes when it ends; those of processes that were killed go now."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PRIVATE}*"):
        try:
            dead = (
                path.stat().st_uid == os.geteuid()
                and Process(**json.loads((path / "owner.json").read_bytes())).life() == "dead"
            )
        except (OSError, ValueError, TypeError):  # being made, being removed, another version's
            continue
        if dead:
            shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PRIVATE))  # for the user alone
    durable.create(folder / "owner.json", json.dumps(asdict(Process.me())).encode())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _unusable(folder: Path, error: OSError) -> JobError:
    return JobError(
        f"run.compile_cache: {folder} cannot be used: {error}. Give it a folder of yours, with room for archives."
    )
