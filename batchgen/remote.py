"""Places that a URL names: `s3://`, `gs://`, `hf://` and whatever else fsspec can reach.

Credentials are those that the packages find by themselves, in their own variables and files. They
are never asked for, and what is printed of a URL has no password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import unquote

from fsspec import AbstractFileSystem, get_filesystem_class
from fsspec.core import url_to_fs

from batchgen.durable import is_full
from batchgen.errors import BatchgenError, InputError, Unreachable, brief, one_line

_URL = re.compile(r"^([A-Za-z][\w+.-]*)://")
_PASSWORD = re.compile(r"(://[^/@:]*:)[^/@]*@")
# What makes fsspec reach a place, where batchgen has an extra for it.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}


def is_url(word: str) -> bool:
    """Whether a word names a place by a URL. `file://…` does too."""
    return bool(_URL.match(word))


def scheme_of(url: str) -> str:
    """`s3` of `s3://bucket/…`; "" for a path."""
    match = _URL.match(url)
    return match[1].lower() if match else ""


def local_path(word: str) -> str:
    """The path that `file://…` names; every other word as it is."""
    return unquote(word[len("file://") :]) if word.lower().startswith("file:///") else word


def shown(url: str) -> str:
    """A URL for people: on one line, without a password or a web address's query."""
    place = url.partition("?")[0] if scheme_of(url) in ("http", "https") else url
    return one_line(_PASSWORD.sub(r"\1***@", place))


def open_place(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL or a path, and what the place is called there.

    :raises InputError: nothing here reaches such a place; with the package to install.
    """
    scheme = scheme_of(url)
    try:
        if scheme:
            get_filesystem_class(scheme)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"pip install 'batchgen[{extra}]'" if extra else one_line(str(error))
        raise InputError(f"{shown(url)}: a package is missing that reaches it: {remedy}") from None
    except ValueError:
        raise InputError(
            f"{shown(url)}: no file system is known by {scheme}://; expected a path, or a URL as "
            "s3://BUCKET/FOLDER, gs://BUCKET/FOLDER or hf://datasets/ORG/NAME"
        ) from None
    with reached(url):
        fs, path = url_to_fs(url)
        return fs, path.rstrip("/")


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Say of an error inside that the place cannot be reached, with its own words.

    :raises Unreachable: it cannot.
    """
    try:
        yield
    except BatchgenError:
        raise
    except Exception as error:
        if is_full(error):
            raise
        said = _said(error)
        raise Unreachable(f"{shown(url)}: {brief(one_line(_hidden(said, url)), 500)}") from error


def _said(error: Exception) -> str:
    """What an error says. That of fsspec about a web address has but its name."""
    if isinstance(error, FileNotFoundError) and is_url(str(error)):
        return "no such file"
    return str(error) or type(error).__name__


def _hidden(text: str, url: str) -> str:
    """A message of another package, without the secrets of the URL that it is about."""
    match = _PASSWORD.search(url)
    password = match[0].rpartition("@")[0].rpartition(":")[2] if match else ""
    query = url.partition("?")[2] if scheme_of(url) in ("http", "https") else ""
    for secret in filter(None, (password, query)):
        text = text.replace(secret, "***")
    return text
