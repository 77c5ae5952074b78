"""Driver, cards, and what PyTorch can do with them. Whatever calls a driver is a child's trial."""

from __future__ import annotations

import csv
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from batchgen.doctor.child import NoAnswer, attempt, call, shorten
from batchgen.doctor.finding import Finding, failed, ok, warning
from batchgen.doctor.needs import Needs, absent, broken
from batchgen.engine.precision.rules import check_precision
from batchgen.engine.rules import check_attention
from batchgen.errors import JobError, counted, shell_command
from batchgen.planning.hardware import GIB, device_files
from batchgen.settings import Site
from batchgen.view.units import data_size

_DRIVER_S, _IMPORT_S, _TRIAL_S, _COMPILE_S = 30.0, 180.0, 120.0, 300.0
_QUERY = "--query-gpu=driver_version,name,memory.total,compute_cap,mig.mode.current"
_INSTALL = "Install a build of PyTorch for this driver: https://pytorch.org/get-started/locally"
# A card with less than this share free has another user.
_MINE = 0.9
# Drivers keep some of the memory that a card is sold with.
_LIKE = 0.9


@dataclass(frozen=True, slots=True)
class Cards:
    """The cards that PyTorch computes on."""

    count: int = 0
    # Of the first one.
    name: str = "this machine's CPU"
    capability: tuple[int, int] | None = None


def devices(needs: Needs) -> Generator[Finding, None, Cards]:
    """Driver and cards; then every capability, tried once on the first card or on the CPU.

    :return: the cards.
    """
    driver, present = _driver()
    yield driver
    try:
        answer = attempt("cards", limit_s=_IMPORT_S)
    except NoAnswer as silence:
        torch = shell_command(sys.executable, "-m", "pip", "install", "--force-reinstall", "torch")
        told = f"PyTorch does not start, so nothing that needs it was tried: {silence}"
        yield failed("torch", told, f"nvidia-smi, where there are cards; else {torch}")
        return Cards()
    yield from _cards(answer, needs, present)
    cards = Cards()
    if answer["cards"]:
        first = answer["cards"][0]
        cards = Cards(len(answer["cards"]), first["name"], (*first["capability"],))
        if needs.site:
            yield _profile(first, needs.site)
    yield from _engine()
    yield from _linears(cards, needs)
    yield from _attentions(cards, needs)
    yield _ranks(cards, needs)
    yield _compiler(cards, needs)
    return cards


def _driver() -> tuple[Finding, int]:
    """What NVIDIA's driver tells, and how many cards there are."""
    files = device_files()
    try:
        if not shutil.which("nvidia-smi"):
            raise NoAnswer("no nvidia-smi")
        query = call("nvidia-smi", _QUERY, "--format=csv,noheader,nounits", limit_s=_DRIVER_S)
        listing = call("nvidia-smi", "-L", limit_s=_DRIVER_S).out
    except NoAnswer as silence:
        if not files and str(silence) == "no nvidia-smi":
            return ok("driver", "no NVIDIA driver: this machine computes on its CPU"), 0
        told = f"{silence}; the kernel shows {counted(files, 'card')}"
        if str(silence) == "no nvidia-smi":  # as in containers
            return ok("driver", told), files
        return failed("driver", told, "dmesg | grep -i nvrm; then reboot the machine"), files
    rows = [row for row in csv.reader(query.out.splitlines(), skipinitialspace=True) if row]
    if query.code or not all(len(row) == 5 for row in rows):
        told = f"nvidia-smi ends with exit code {query.code}: {shorten([query.out, query.err])}"
        return failed("driver", told, "nvidia-smi; install NVIDIA's driver, or reboot"), files
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


def _cards(answer: dict[str, Any], needs: Needs, present: int) -> Iterator[Finding]:
    """Whether PyTorch sees the cards that are there, and as many as are needed."""
    found, cards = f"PyTorch {answer['torch']}", answer["cards"]
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    hidden = "" if given is None else f' (CUDA_VISIBLE_DEVICES is "{given}")'
    if not answer["cuda"]:
        found += ", built without CUDA"
    elif not cards:
        found += f", built for CUDA {answer['cuda']}, sees no card{hidden}"
    if answer["why"]:
        found += f": {answer['why']}"
    listed = [f"{card['name']}, {data_size(card['total'])}" for card in cards]
    found += f" computes on {'; '.join(listed)}{hidden}" if cards else ""
    if len(cards) < needs.cards:
        site = f"the site profile says gpus_per_node = {needs.cards}"
        wanted = site if needs.site else f"the job needs {counted(needs.cards, 'card')}"
        remedy = "nvidia-smi -L lists them; or name a site that has more, with --site"
        if (present and not answer["cuda"]) or answer["why"]:
            remedy = _INSTALL
        yield failed("torch", f"{found}; {wanted}", remedy)
    elif present and not cards and given not in ("", "-1"):
        yield failed("torch", f"{found}; the driver has {counted(present, 'card')}", _INSTALL)
    else:
        yield ok("torch", found if cards else f"{found}; it computes on the CPU")
    busy = [
        f"card {number}: {data_size(card['total'] - card['free'])}"
        for number, card in enumerate(cards)
        if card["free"] < _MINE * card["total"]
    ]
    if busy:
        told = f"memory is taken by other processes ({'; '.join(busy)})"
        yield warning("free_cards", told, "nvidia-smi shows them")


def _profile(card: dict[str, Any], site: Site) -> Finding:
    """Whether the profile describes the card: planning refuses jobs by it, or lets them through."""
    major, minor = card["capability"]
    gib, can = card["total"] / GIB, f"{major}.{minor}"
    told = f'this node\'s card has gpu_memory_gib = {gib:.0f}, gpu_capability = "{can}"'
    memory, capability = site.gpu_memory_gib, site.gpu_capability
    if capability not in (None, can) or (memory and not _LIKE < gib / memory < 1 / _LIKE):
        said = ", ".join(f"{key} = {value}" for key, value in site if key.startswith("gpu_"))
        remedy = "Correct the site profile; with several kinds of cards, choose one: constraint"
        return warning("profile", f"{told}; the site profile says {said}", remedy)
    return ok("profile", told + ("" if memory and capability else ": the site profile may say so"))


def _engine() -> Iterator[Finding]:
    """Whether the libraries that the engine imports fit each other."""
    try:
        attempt("engine", limit_s=_IMPORT_S)
        yield ok("engine", "the engine and its libraries can be imported")
    except NoAnswer as silence:
        told = f"the engine cannot be imported: {silence}"
        install = shell_command(sys.executable, "-m", "pip", "install", "-U", "batchgen")
        yield failed("engine", told, f"See versions; {install}")


def _linears(cards: Cards, needs: Needs) -> Iterator[Finding]:
    for kind in ("fp8", "int8"):
        found = _capability(
            kind,
            partial(check_precision, kind, "row", cards.capability),
            ("linear", kind),
            needed=needs.linear(kind),
            setting=f'precision.linear = "{kind}"',
            where=cards.name,
        )
        if kind == "fp8" and not cards.count and found.state == "ok":
            found = _fp8_on_a_cpu(found.found, needs)
        yield found


def _fp8_on_a_cpu(told: str, needs: Needs) -> Finding:
    """FP8 works on a CPU, unpacked: for rehearsals, and not for a job that insists on cards."""
    slow = f"{told}; slow on a CPU, for rehearsals"
    if not needs.linear("fp8"):
        return ok("fp8", slow)
    remedy = "Use cards of compute capability 8.9 or newer, or --set precision.linear=bf16"
    return broken("fp8", slow, remedy, needed=needs.cards > 0)


def _attentions(cards: Cards, needs: Needs) -> Iterator[Finding]:
    for kernel in ("cudnn", "flash", "fa3"):
        yield _capability(
            f"attention_{kernel}",
            partial(
                check_attention,
                kernel,
                cuda=bool(cards.count),
                capability=cards.capability,
                fp32=False,
                where=cards.name,
            ),
            ("attention", kernel),
            needed=needs.attention(kernel),
            setting=f'engine.attention = "{kernel}"',
            where=cards.name,
        )


def _capability(
    name: str,
    rule: Callable[[], None],
    trial: tuple[str, str],
    *,
    needed: bool,
    setting: str,
    where: str,
) -> Finding:
    """Whether the rules say that the device can do something, and whether it then does it."""
    try:
        rule()
        answer = attempt(*trial, limit_s=_TRIAL_S)
        if "absent" in answer:
            raise JobError(answer["absent"])
    except JobError as refused:
        found, remedy = _reason(str(refused))
        return absent(name, found, remedy, needed=needed, matters=setting)
    except NoAnswer as silence:
        remedy = f"Set another one than {setting}; see driver, torch and versions"
        return broken(name, f"{where} should have it; {silence}", remedy, needed=needed)
    found = f"tried on {where}: {answer['off']:.1%} off the plain computation"
    return ok(name, found)


def _reason(refusal: str) -> tuple[str, str]:
    """What a rule says of a device, without the setting that was asked for; and the remedy."""
    asked, _, answer = refusal.partition(": ")
    reason, stop, remedy = answer.partition(". ")
    return (reason, remedy) if stop else (asked, answer)


def _ranks(cards: Cards, needs: Needs) -> Finding:
    """Whether two processes find each other and exchange a tensor."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        both = [
            pool.submit(attempt, "rank", str(rank), folder, limit_s=_TRIAL_S) for rank in (0, 1)
        ]
        silences = [str(error) for one in both if (error := one.exception())]
        if not silences:
            told = both[0].result()
    if silences:
        # The one whose peer is gone only waits until its time is over.
        reason = min(silences, key=lambda text: "did not end" in text)
        remedy = "Check that processes may connect to each other over the loopback interface"
        if cards.count > 1:
            remedy = "NCCL_DEBUG=INFO shows why; leave parallel.cp out: one card a worker"
        return broken("ranks", f"two processes: {reason}", remedy, needed=needs.ranks)
    alone = "; NCCL needs a second card" if cards.count == 1 else ""
    seconds = told["seconds"]
    return ok(
        "ranks", f"two processes exchanged 4 MB over {told['library']}, {seconds:.1f} s{alone}"
    )


def _compiler(cards: Cards, needs: Needs) -> Finding:
    """Whether torch.compile has the compiler that it needs, and compiles."""
    needed = needs.compiles(cuda=bool(cards.count))
    variable, usual = ("CC", ("gcc", "clang")) if cards.count else ("CXX", ("g++", "clang++"))
    given = os.environ.get(variable, "")
    names = (given,) if given else usual
    here = next((path for name in names if (path := shutil.which(name))), "")
    if not here:
        told = f"no {' or '.join(names)} here"
        remedy = f"apt-get install g++, or --set compile.mode=none (slower); {variable} names one"
        return absent("compiler", told, remedy, needed=needed, matters="compile.mode")
    if not needed:
        return ok("compiler", f"{here}; not tried, as only compile.mode needs it on {cards.name}")
    try:
        attempt("compiler", limit_s=_COMPILE_S)
    except NoAnswer as silence:
        remedy = "--set compile.mode=none makes the same pictures, slower"
        return broken("compiler", f"torch.compile fails: {silence}", remedy, needed=needed)
    return ok("compiler", f"torch.compile works on {cards.name}")
