"""Sizes, times and sums of money, as people write them."""

from __future__ import annotations


def data_size(size: float) -> str:
    """`200 bytes`, `1.2 GB`, `3.0 TB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3.4 h`, `2.1 d`."""
    for limit, unit, size in ((90, "s", 1), (90 * 60, "min", 60), (48 * 3600, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}" if size < 3600 else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} d"


def money(amount: float) -> str:
    """`0.0031`, `0.42`, `12.50`, `1,250`: cents matter below a hundred."""
    if 0 < amount < 0.1:
        return f"{amount:.2g}" if amount >= 0.0001 else "less than 0.0001"
    return f"{amount:.2f}" if amount < 100 else f"{amount:,.0f}"
