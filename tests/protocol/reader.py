"""Read a dataset while it is being made: `python -m tests.protocol.reader RUN`.

The reader lists and reads `data/*.tar` in a loop until its stdin ends, and once more.

Knows nothing of batchgen. Prints a JSON line for every tar it sees for the first time or sees
changed, for every error, and at the end how often it has read everything there was.
"""

from __future__ import annotations

import json
import select
import sys
from pathlib import Path

from tests.protocol import recount


def main() -> None:
    data, seen, rounds = Path(sys.argv[1]) / "data", {}, 0
    ending = False
    while not ending:
        ending = bool(select.select([sys.stdin], [], [], 0.05)[0])
        for path in sorted(data.glob("*.tar")):
            try:
                now = {"samples": len(recount.samples(path)), "sha256": recount.sha256(path)}
            except Exception as error:  # noqa: BLE001 - whatever a reader would see
                now = {"error": f"{type(error).__name__}: {error}"}
            if seen.get(path.name) != now:
                seen[path.name] = now
                print(json.dumps({"tar": path.name} | now), flush=True)
        rounds += 1
    print(json.dumps({"rounds": rounds}), flush=True)


if __name__ == "__main__":
    main()
