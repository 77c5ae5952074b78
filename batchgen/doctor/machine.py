"""The installation, and what every process of this machine shares."""

from __future__ import annotations

import importlib.metadata
import platform
import resource
import sys
from collections.abc import Iterator, Mapping

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.errors import counted, shell_command
from batchgen.planning.hardware import GIB, host_memory
from batchgen.planning.identity import software
from batchgen.units import data_size

# What a person looks for in a list of versions.
_TOLD = ("torch", "diffusers", "transformers", "torchao", "submitit")
# PyTorch and a model's host copy do not work in less memory, nor a worker with fewer open files.
_LEAST_MEMORY, _LEAST_FILES = 4 * GIB, 1024


def versions() -> Iterator[Finding]:
    """Whether the installed packages are in the ranges that this batchgen asks for."""
    about = importlib.metadata.metadata("batchgen")
    if platform.python_version() not in SpecifierSet(about["Requires-Python"], prereleases=True):
        here = f"Python {platform.python_version()} here, and batchgen needs"
        yield failed(
            "python",
            f"{here} {about['Requires-Python']}",
            "Make the virtual environment with another Python",
        )
    required = [Requirement(line) for line in importlib.metadata.requires("batchgen") or ()]
    required = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = {str(one): told for one in required if (told := _misfit(one))}
    if wrong:
        install = shell_command(sys.executable, "-m", "pip", "install", *wrong)
        yield failed("versions", "; ".join(wrong.values()), install)
    else:
        told = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _TOLD)
        count = counted(len(required), "package")
        yield ok("versions", f"{count} in the ranges that batchgen asks for: {told}")


def _misfit(one: Requirement) -> str:
    """Why a requirement is not met; "" if it is."""
    try:
        version = importlib.metadata.version(canonicalize_name(one.name))
    except importlib.metadata.PackageNotFoundError:
        return f"{one.name} is not installed"
    if one.specifier.contains(version, prereleases=True):
        return ""
    return f"{one.name} is {version} here, and batchgen needs {one.specifier}"


def same_software(elsewhere: Mapping[str, str]) -> Iterator[Finding]:
    """Whether a node has the software of the machine that submits: other versions paint otherwise.

    :param elsewhere: package → version there.
    """
    here = software()
    other = [
        f"{name} is {here.get(name)} here and {version} there"
        for name, version in elsewhere.items()
        if here.get(name) != version
    ]
    if other:
        remedy = "Have all nodes use one installation: see python and setup in the site profile"
        yield warning("same_software", "; ".join(other), remedy)
    else:
        yield ok("same_software", "the versions of the machine that submits")


def memory() -> Iterator[Finding]:
    """The memory of this machine, or of this container."""
    limit = host_memory()
    free = min(limit, psutil.virtual_memory().available)
    told = f"{data_size(limit)} of host memory, {data_size(free)} available"
    if free < _LEAST_MEMORY:
        remedy = f"Free some: a worker needs {data_size(_LEAST_MEMORY)} and more"
        yield warning("memory", told, remedy)
    else:
        yield ok("memory", told)


def open_files() -> Iterator[Finding]:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    told = f"a process may open {_limit(soft)} files"
    if soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES:
        yield ok("open_files", told)
        return
    if hard == resource.RLIM_INFINITY or hard >= _LEAST_FILES:
        yield warning("open_files", told, f"ulimit -n {_LEAST_FILES}")
    else:
        ask = f"Ask the administrator for {_LEAST_FILES} (RLIMIT_NOFILE)"
        yield warning("open_files", f"{told}, and at most {_limit(hard)}", ask)


def _limit(number: int) -> str:
    return "any number of" if number == resource.RLIM_INFINITY else f"{number:,}"
