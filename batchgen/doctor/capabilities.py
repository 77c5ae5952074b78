"""What the engine can do here: its imports, precisions, attention, exchange and compiler, tried."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from batchgen.doctor.cards import Cards
from batchgen.doctor.child import NoAnswer, attempt
from batchgen.doctor.finding import Finding, failed, ok
from batchgen.doctor.needs import Needs, absent, broken
from batchgen.engine.precision.rules import check_precision
from batchgen.engine.rules import check_attention
from batchgen.errors import JobError, shell_command

IMPORT_S, _TRIAL_S, _COMPILE_S = 180.0, 120.0, 300.0


def capabilities(cards: Cards, needs: Needs) -> Iterator[Finding]:
    """Every capability, tried once on the first card or on the CPU."""
    yield from _engine()
    yield from _linears(cards, needs)
    yield from _attentions(cards, needs)
    yield _ranks(cards, needs)
    yield _compiler(cards, needs)


def _engine() -> Iterator[Finding]:
    """Whether the libraries that the engine imports fit each other."""
    try:
        attempt("engine", limit_s=IMPORT_S)
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
            remedy = "NCCL_DEBUG=INFO shows why; leave [parallel] out: one card a worker"
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
