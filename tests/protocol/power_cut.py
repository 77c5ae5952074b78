"""What a power cut would leave of a run directory, computed from the log of its disk operations.

The harshest disk that keeps its word: bytes are there only as far as the last fsync of their
file, new names, those of folders too, only if their folder was synced after, while every removal
has reached the disk at once. What was not synced is cut off, or reads as zeros.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def cut(root: Path, events: Iterable[dict[str, Any]], *, zeros: bool = False) -> None:
    """Take away from `root` what was not safe.

    :param events: of all processes, since the directory was on the disk.
    :param zeros: bytes that were not safe read as zeros; otherwise they are cut off.
    """
    safe_bytes, unsafe_names = _balance(events)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        status = path.stat()
        safe = safe_bytes.get(status.st_ino, status.st_size)
        if safe < status.st_size:
            os.truncate(path, safe)
            if zeros:
                os.truncate(path, status.st_size)
    for name in unsafe_names:
        if (root / name).is_dir():
            shutil.rmtree(root / name)
        else:
            (root / name).unlink(missing_ok=True)


def _balance(events: Iterable[dict[str, Any]]) -> tuple[dict[int, int], set[Path]]:
    """The length of each written file (by inode) at its last fsync, and the names not yet safe.

    A name is safe when its folder is synced after the name was made.
    """
    safe_bytes: dict[int, int] = {}
    unsafe_names: set[Path] = set()
    for event in events:
        path = Path(event.get("file", ""))
        match event["op"]:
            case "create":
                safe_bytes[event["inode"]] = 0
                unsafe_names.add(path)
            case "link" | "replace":
                unsafe_names.add(path)
            case "mkdir":
                safe_bytes.pop(event["inode"], None)  # it was that of a file that is gone
                unsafe_names.add(path)
            case "unlink":
                unsafe_names.discard(path)
            case "fsync" if event["inode"] in safe_bytes:
                safe_bytes[event["inode"]] = event["size"]
            case "fsync":
                unsafe_names = {name for name in unsafe_names if name.parent != path}
    return safe_bytes, unsafe_names
