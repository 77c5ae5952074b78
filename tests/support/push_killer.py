"""Pushes that die at a step: `python -m tests.support.push_killer`.

Imports once and forks a child for each request, a JSON line `[run, url, step]` on stdin. The child
pushes, and kills itself when it has come to that step: before every object that is put; before and
after every file that is synced or renamed, and in the middle of writing it. The answer is the
child's exit code.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
import threading
import traceback
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
from botocore.loaders import JSONFileLoader
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem

from batchgen import durable
from batchgen.dataset import push_run
from batchgen.run import RunDirectory


class Steps:
    """Counts steps of all threads, and dies at one."""

    def __init__(self, fatal: int) -> None:
        self._fatal, self._numbers, self._lock = fatal, itertools.count(), threading.Lock()

    def step(self) -> None:
        if self.comes():
            self.die()

    def comes(self) -> bool:
        with self._lock:
            return next(self._numbers) == self._fatal

    @staticmethod
    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, name: str) -> None:
        inner = getattr(owner, name)

        def watched(*given: Any, **named: Any) -> Any:
            self.step()
            done = inner(*given, **named)
            self.step()
            return done

        setattr(owner, name, watched)


def watch(steps: Steps) -> None:
    copy, call = LocalFileSystem.put_file, S3FileSystem._call_s3

    def put_file(self: Any, source: str, target: str, **named: Any) -> None:
        if steps.comes():
            content = Path(source).read_bytes()
            Path(target).write_bytes(content[: len(content) // 2])
            steps.die()
        copy(self, source, target, **named)
        steps.step()

    async def call_s3(self: Any, method: str, *given: Any, **named: Any) -> Any:
        if method == "put_object":
            steps.step()
        return await call(self, method, *given, **named)

    LocalFileSystem.put_file, S3FileSystem._call_s3 = put_file, call_s3
    steps.around(durable, "sync")
    steps.around(durable, "sync_folder")
    steps.around(Path, "replace")


def warm() -> None:
    """Read once what every client of S3 would read."""
    JSONFileLoader.load_file = cache(JSONFileLoader.load_file)
    session = botocore.session.get_session()
    session.create_client("s3", "us-east-1", aws_access_key_id="-", aws_secret_access_key="-")


def main() -> None:
    warm()
    for line in sys.stdin:
        run, url, fatal = json.loads(line)
        pid = os.fork()
        if not pid:
            code = 1
            try:
                watch(Steps(fatal))
                push_run(RunDirectory.open(Path(run)), url, follow=False, replace=False)
                code = 0
            except BaseException:  # noqa: BLE001 - nothing may return into the parent's loop
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
