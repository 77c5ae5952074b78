"""Hostile texts, values, bytes and files, and mutations that put them in the place of good ones."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TEXTS = (
    *("", " ", "\t", "\n", "\0", "a\0b", "\x1b[31mred\x1b]0;title\x07", "a\rb", "\x85", "\x7f"),
    *(
        "\u202eevil\u202c",
        "\u2066x\u2069",
        "\u200b",
        "\ufeff",
        "\u2028",
        "e\u0301",
        "👩‍👩‍👧",
        "\ud800",
    ),
    *(
        "%d %s %n",
        "$HOME $(id) `id`",
        "'",
        '"',
        "'\"",
        "\\",
        "{}",
        "{0}",
        "[b]x[/b]",
        "<b>",
        "--help",
    ),
    *(
        "../../etc/passwd",
        "~",
        "/",
        ".",
        "nan",
        "-inf",
        "1e999",
        "0x10",
        "1_000",
        "٣",
        "１２",
        "+7",
    ),
    *("true", "null", "None", "x" * 1_000, "y" * 1_000_000, "a,b;c\td", "#", "=1+1", "acme/model"),
)
NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 15, 17, 1_000, 65_535, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(10**30, 0.0, -0.0, 0.5, 2.5, 1e-300, 1e300, 1e9, math.nan, math.inf, -math.inf),
)
DEPTH = 100_000


def value(chance: random.Random) -> Any:
    """A value that JSON or TOML can hold, of any type."""
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice((None, True, False))
    if kind in (1, 2):
        return chance.choice(NUMBERS)
    if kind == 3:
        return chance.choice(TEXTS)
    if kind == 4:
        return [chance.choice(NUMBERS + TEXTS[:20]) for _ in range(chance.randrange(4))]
    return {chance.choice(TEXTS[:30]): chance.choice(NUMBERS)} if chance.random() < 0.7 else {}


def near(chance: random.Random, old: Any) -> Any:
    """A value of the same type that differs a little."""
    if isinstance(old, bool):
        return not old
    if isinstance(old, int):
        return chance.choice((old + 1, old - 1, old * 2, old // 2, -old, old * 10))
    if isinstance(old, float):
        return chance.choice(
            (old + 1, old / 2, -old, float(int(old)) if math.isfinite(old) else 0.0)
        )
    if isinstance(old, str):
        place = chance.randrange(len(old) + 1)
        return old[:place] + chance.choice("x0-/ ") + old[place + chance.randrange(2) :]
    if isinstance(old, list) and old:
        return chance.choice((old[:-1], [*old, old[0]], old[::-1]))
    return value(chance)


def mutated(chance: random.Random, content: Any) -> tuple[Any, str]:
    """A copy of nested dicts and lists with one mutation, and what it is."""
    content = json.loads(json.dumps(content))
    places = list(_places(content, ()))
    if not places:
        return value(chance), "the whole replaced"
    holder, key, path = chance.choice(places)
    old, name = holder[key], ".".join(map(str, path))
    kind = chance.randrange(10)
    if kind < 2:
        del holder[key]
        return content, f"{name} dropped"
    if kind == 2 and isinstance(holder, dict):
        new_key = chance.choice((*TEXTS[:40], f"{key}s", str(key).upper(), f"{key} "))
        holder[new_key] = holder.pop(key)
        return content, f"{name} renamed {_short(new_key)}"
    if kind == 3 and isinstance(holder, dict):
        new_key = chance.choice((*TEXTS[:40], "quantization_config", "foo", "lora"))
        holder[new_key] = value(chance)
        return content, f"{_short(new_key)} added beside {name}"
    if kind == 4:
        holder[key] = [old] if chance.random() < 0.5 else str(old)
    elif kind < 7:
        holder[key] = near(chance, old)
    else:
        holder[key] = value(chance)
    return content, f"{name} = {_short(holder[key])}"


def _places(content: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, Any, tuple[Any, ...]]]:
    """Every holder and key of nested dicts and lists, with the path to it."""
    if isinstance(content, dict | list):
        for key in content if isinstance(content, dict) else range(len(content)):
            yield content, key, (*path, key)
            yield from _places(content[key], (*path, key))


def mutated_json(chance: random.Random, data: bytes) -> tuple[bytes, str]:
    """The text of a JSON file with one mutation: of a value, of its nesting or of its bytes."""
    kind = chance.randrange(8)
    if kind == 0:
        return mutated_bytes(chance, data)
    if kind == 1:
        text = chance.choice(
            ("[" * DEPTH, '{"a":' * DEPTH, "null", "[]", "{}", "", '"x"', "9" * 5000)
        )
        return text.encode(), f"the text {text[:10]}…"
    try:
        content = json.loads(data)
    except ValueError:  # a file that is named .json and holds plain text
        return mutated_bytes(chance, data)
    if kind == 2 and isinstance(content, dict) and content:
        key = chance.choice(list(content))
        again = f"{json.dumps(key)}: {json.dumps(value(chance))}, "
        return b"{" + again.encode() + data.lstrip()[1:], f"{key} twice"
    new, about = mutated(chance, content)
    return json.dumps(new).encode(), about


def mutated_bytes(chance: random.Random, data: bytes) -> tuple[bytes, str]:
    """Bytes with one mutation, and what it is."""
    start = chance.randrange(len(data) + 1)
    end = min(len(data), start + chance.choice((1, 1, 2, 8, 100, 5_000)))
    inside, before, after = data[start:end], data[:start], data[end:]
    text = chance.choice(TEXTS).encode("utf-8", "surrogatepass")
    ways: dict[str, Callable[[], bytes]] = {
        "truncated": lambda: before,
        "without its start": lambda: data[start:],
        "a part taken out": lambda: before + after,
        "a part twice": lambda: before + inside + inside + after,
        "a part zeroed": lambda: before + bytes(len(inside)) + after,
        "a part random": lambda: before + chance.randbytes(len(inside)) + after,
        "a bit flipped": lambda: (
            before
            + bytes(one ^ (1 << chance.randrange(8)) for one in inside[:1])
            + data[start + 1 :]
        ),
        "a digit changed": lambda: _digit_changed(chance, data),
        f"{_short(text)} put in": lambda: before + text + data[start:],
        "UTF-16": lambda: data.decode("utf-8", "replace").encode("utf-16"),
        "a byte order mark": lambda: b"\xef\xbb\xbf" + data,
        "Windows line ends": lambda: data.replace(b"\n", b"\r\n"),
        "old Mac line ends": lambda: data.replace(b"\n", b"\r"),
        "twice": lambda: data + data,
        "bytes behind": lambda: data + chance.randbytes(50),
    }
    way = chance.choice(list(ways))
    return ways[way](), f"{way}, byte {start} to {end} of {len(data)}"


def _digit_changed(chance: random.Random, data: bytes) -> bytes:
    places = [place for place, byte in enumerate(data[:100_000]) if 48 <= byte <= 57]
    if not places:
        return data[1:]
    place = chance.choice(places)
    return data[:place] + str((data[place] - 47) % 10).encode() + data[place + 1 :]


def strange_file(chance: random.Random, path: Path) -> str:
    """Put something that is no file as batchgen expects it in the place of `path`; what it is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    ways: dict[str, Callable[[], Any]] = {
        "missing": lambda: None,
        "empty": path.touch,
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a socket": lambda: _bind(path),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a dangling link": lambda: path.symlink_to("nowhere"),
        "/dev/zero": lambda: path.symlink_to("/dev/zero"),
        "/dev/null": lambda: path.symlink_to("/dev/null"),
        "64 MB of holes": lambda: _sparse(path),
        "a web page": lambda: path.write_text("<html>404 not found</html>" * 10),
        "a Git LFS pointer": lambda: path.write_text(
            "version https://git-lfs.github.com/spec/v1\n"
        ),
        "a zip file": lambda: path.write_bytes(b"PK\x03\x04" + bytes(100)),
        "a pickle": lambda: path.write_bytes(b"\x80\x02}q\x00."),
        "unreadable": lambda: (path.touch(), path.chmod(0)),
    }
    way = chance.choice(list(ways))
    ways[way]()
    return way


def _bind(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:  # the path of a socket may have 107 bytes only
        with socket.socket(socket.AF_UNIX) as one:
            one.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 2**20)


def mutate_file(
    chance: random.Random,
    path: Path,
    mutate: Callable[[random.Random, bytes], tuple[bytes, str]] = mutated_bytes,
    *,
    strange: float = 0.1,
) -> str:
    """Mutate a file where it lies, other names of it excepted; what was done.

    :param strange: the share of mutations that leave something that is no such file.
    """
    if chance.random() < strange:
        return f"{path.name}: {strange_file(chance, path)}"
    data, about = mutate(chance, path.read_bytes())
    path.unlink()
    path.write_bytes(data)
    return f"{path.name}: {about}"


def _short(text: object) -> str:
    shown = repr(text)
    return shown if len(shown) < 60 else f"{shown[:50]}… ({len(shown)} characters)"
