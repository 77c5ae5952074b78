"""What batchgen answers to some thousand bad inputs: manifests, job and site files, command lines,
model folders, LoRA files, run directories.

    python -m benchmarks.mutated_inputs [--seed 0] [--count 2100] [--kind manifest]
    python -m benchmarks.mutated_inputs --kind model --only 17    one input, and all that it is told

Each input is a sound one with one mutation, which the seed, the kind and the input's number decide:
the same on every machine. Counted are inputs that were

    clean error   refused: a message on standard error, an exit code that is not 0
    acted         accepted, and the result is right where another reader can tell: rows and records
                  of a rehearsal, values of a job, a picture of the model, the files of a run
    wrong         accepted, and the result is not right; or a message over 10,000 characters, or one
                  with characters that a terminal obeys
    traceback     answered with an exception, or the process died
    hang          not answered within 20 s

What was not right is told on standard error, and the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from benchmarks.mutations import KINDS
from benchmarks.mutations.trial import Outcome, ask, run
from benchmarks.mutations.watched import Result, prepare, try_inputs

RIGHT = (Outcome.REFUSED, Outcome.ACTED)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2100)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--only", type=int, metavar="N", help="needs --kind")
    chosen = parser.parse_args()
    if chosen.only is not None:
        show_one(chosen.kind, chosen.seed, chosen.only)
        return
    begin, results = time.perf_counter(), []
    for kind, count in counts(chosen.count, chosen.kind).items():
        for result in try_inputs(kind, chosen.seed, range(count)):
            results.append(result)
            if result.outcome not in RIGHT:
                print(tell(result), file=sys.stderr, flush=True)
    print(table(results))
    print(f"seed {chosen.seed}, {time.perf_counter() - begin:.0f} s")
    sys.exit(any(result.outcome not in RIGHT for result in results))


def counts(total: int, kind: str | None = None) -> dict[str, int]:
    """How many inputs of each kind are tried."""
    shares = {kind: KINDS[kind]} if kind else KINDS
    return {name: -(-total * share // sum(shares.values())) for name, share in shares.items()}


def table(results: list[Result]) -> str:
    """The counts of each kind as a table of Markdown."""
    names = [outcome.value for outcome in Outcome]
    lines = [f"| inputs | tried | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for kind in (*dict.fromkeys(result.kind for result in results), "all"):
        found = Counter(one.outcome for one in results if kind in (one.kind, "all"))
        shown = " | ".join(f"{found[outcome]:,}" for outcome in Outcome)
        lines.append(f"| {kind} | {found.total():,} | {shown} |")
    return "\n".join(lines)


def tell(result: Result) -> str:
    """An input that was not answered well, in a few lines without control characters."""
    head = f"{result.kind} {result.number}: {result.outcome}: {result.about}"
    lines = [*head.splitlines(), *result.why[-2000:].splitlines()[-12:]]
    return "\n  ".join(line.encode("unicode_escape").decode() for line in lines)


def show_one(kind: str, seed: int, number: int) -> None:
    """Meet one input in this process and print everything; its folder stays."""
    folder = Path(tempfile.mkdtemp(prefix="batchgen-mutated-"))
    with ExitStack() as stack:
        make = prepare(kind, folder, stack)
        trial, where = make(seed, number)
        print(f"{trial.about}\nin {where}")
        for words in trial.commands:
            print("\n$", shlex.join(["batchgen", *map(str, words)])[:1000])
            answer = ask(words)
            print(f"{answer.out}{answer.err}{answer.raised}exit code {answer.code}")
        shutil.rmtree(where)
        print("\n", *run(make(seed, number)[0]))


if __name__ == "__main__":
    main()
