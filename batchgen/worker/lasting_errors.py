"""Errors of a worker's start that another start would meet again: no restart is spent on them."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from batchgen.errors import BatchgenError, CannotStart

log = logging.getLogger(__name__)
# What the operating system says again and again: something is missing, or may not be used.
_LASTING = {
    *(errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENOEXEC, errno.ELOOP, errno.ENAMETOOLONG),
}


@contextmanager
def lasting_errors(doing: str) -> Iterator[None]:
    """Around a part of a worker's start.

    A model, a configuration or an installation that libraries refuse stays what it is. A device, a
    full memory or a network may recover, so their errors pass unchanged: they are deaths.

    :param doing: what the worker does inside, for the message.
    :raises CannotStart: for every other exception, with its type and message.
    """
    try:
        yield
    except BatchgenError as error:
        # In a replica, the error of this rank stands behind the replica's failure.
        if error.__cause__ is None or not _lasts(error.__cause__):
            raise
        raise _cannot_start(doing, error.__cause__) from error
    except Exception as error:
        if not _lasts(error):
            raise
        log.exception("%s", doing)
        raise _cannot_start(doing, error) from error


def _cannot_start(doing: str, error: BaseException) -> CannotStart:
    return CannotStart(f"{doing}: {type(error).__name__}: {error}")


def _lasts(error: BaseException) -> bool:
    """Whether another try would meet the error again, as far as its type says."""
    if isinstance(error, BatchgenError | MemoryError | ConnectionError | TimeoutError):
        return False
    if isinstance(error, OSError):
        # Libraries raise it without a number: a tokenizer cannot be loaded, for example.
        return error.errno is None or error.errno in _LASTING
    if isinstance(error, RuntimeError):  # of devices and their libraries
        return isinstance(error, NotImplementedError | RecursionError)
    return isinstance(error, Exception)
