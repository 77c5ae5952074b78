"""NVIDIA's driver: which cards it lists, without PyTorch."""

from __future__ import annotations

import csv
import shutil

from batchgen.doctor.child import NoAnswer, call, shorten
from batchgen.doctor.finding import Finding, failed, ok
from batchgen.doctor.needs import Needs, broken
from batchgen.errors import counted
from batchgen.planning.hardware import device_files

LIMIT_S = 30.0
_QUERY = "--query-gpu=driver_version,name,memory.total,compute_cap,mig.mode.current"


def driver(needs: Needs) -> tuple[Finding, int]:
    """What the driver tells, and how many cards there are.

    Images of machines without cards may have nvidia-smi, which then fails.
    """
    files = device_files()
    try:
        if not shutil.which("nvidia-smi"):
            raise NoAnswer("no nvidia-smi")
        query = call("nvidia-smi", _QUERY, "--format=csv,noheader,nounits", limit_s=LIMIT_S)
        listing = call("nvidia-smi", "-L", limit_s=LIMIT_S).out
    except NoAnswer as silence:
        if not files and str(silence) == "no nvidia-smi":
            return ok("driver", "no NVIDIA driver: this machine computes on its CPU"), 0
        told = f"{silence}; the kernel shows {counted(files, 'card')}"
        if str(silence) == "no nvidia-smi":  # as in containers
            return ok("driver", told), files
        remedy = "dmesg | grep -i nvrm; then reboot the machine"
        return broken("driver", told, remedy, needed=bool(needs.cards or files)), files
    rows = [row for row in csv.reader(query.out.splitlines(), skipinitialspace=True) if row]
    if query.code or not all(len(row) == 5 for row in rows):
        told = f"nvidia-smi ends with exit code {query.code}: {shorten([query.out, query.err])}"
        remedy = "nvidia-smi; where there are cards, install NVIDIA's driver, or reboot"
        return broken("driver", told, remedy, needed=bool(needs.cards or files)), files
    return _described(rows, listing), len(rows)


def _described(rows: list[list[str]], listing: str) -> Finding:
    """The cards that the driver lists, those of one kind together, and their slices."""
    slices = [line.split("(UUID")[0].split() for line in listing.splitlines()]
    slices = [line for line in slices if line[:1] == ["MIG"]]
    sliced = sum(row[4] == "Enabled" for row in rows)
    kinds: dict[str, int] = {}
    for _, name, mib, capability, _ in rows:
        kind = f"{name}, {mib} MiB, compute capability {capability}"
        kinds[kind] = kinds.get(kind, 0) + 1
    listed = "; ".join(f"{count} × {kind}" for kind, count in kinds.items()) or "no card"
    told = f"{rows[0][0] if rows else 'a driver'}: {listed}"
    if sliced and not slices:
        remedy = "nvidia-smi mig -lgip, then nvidia-smi mig -cgi PROFILE -C; or nvidia-smi -mig 0"
        return failed("driver", f"{told}; MIG is on and there is no slice", remedy)
    if slices:
        told += f"; MIG slices: {', '.join(line[1] for line in slices)}"
    return ok("driver", told)
