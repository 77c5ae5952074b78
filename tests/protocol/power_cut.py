"""What a power cut would leave of a run directory, computed from the log of its disk operations.

The harshest disk that keeps its word: bytes are there only as far as the last fsync of their file, new names only if their folder was
synced after, while every removal has reached the disk at once. What was not synced is cut off, or reads as zeros.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def cut(root: Path, events: Iterable[dict[str, Any]], *, zeros: bool = False) -> None:
    """Take away from `root` what was not safe; `events` of all processes since the directory was on the disk."""
    safe_bytes: dict[int, int] = {}  # inode → length at its last fsync
    unsafe_names: dict[str, set[str]] = {}  # folder → names made since its last fsync
    for event in events:
        folder, _, name = event.get("file", "").rpartition("/")
        match event["op"]:
            case "create":
                safe_bytes[event["inode"]] = 0
                unsafe_names.setdefault(folder, set()).add(name)
            case "link" | "replace":
                unsafe_names.setdefault(folder, set()).add(name)
            case "unlink":
                unsafe_names.get(folder, set()).discard(name)
            case "fsync":
                if event["inode"] in safe_bytes:
                    safe_bytes[event["inode"]] = event["size"]
                unsafe_names.pop(event["file"], None)
    for path in [path for path in root.rglob("*") if path.is_file()]:
        safe = safe_bytes.get(path.stat().st_ino)
        size = path.stat().st_size
        if safe is not None and safe < size:
            os.truncate(path, safe)
            if zeros:
                os.truncate(path, size)
    for folder, names in unsafe_names.items():
        for name in names:
            (root / folder / name).unlink(missing_ok=True)
