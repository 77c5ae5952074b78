"""A complete run to push, an S3 server, and pushes that die."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

from batchgen.dataset.finalize import wids_index
from batchgen.run import RunDirectory
from batchgen.shard import read_done
from tests.support.rehearsal import Answer

Die = Callable[[Path, str, int], int]


@pytest.fixture
def run(finished: tuple[Path, Answer], tmp_path: Path) -> Path:
    """A copy of a complete run of five shards, of which one has no tar."""
    return shutil.copytree(finished[0], tmp_path / "run")


def keep_shards(run: Path, shards: int) -> None:
    """Make a run of five shards one of its first shards only."""
    directory = RunDirectory.open(run)
    for shard in range(shards, 5):
        for path in (directory.data(shard), directory.metadata(shard), directory.done(shard)):
            path.unlink()
    done = [read_done(directory, shard) for shard in range(shards)]
    directory.index.write_bytes(wids_index(directory, done))


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this machine."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> object:
    """A client of the server, which has an empty bucket `cats`."""
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "user",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # it keeps what it found in the environment
    client = boto3.client("s3")
    client.create_bucket(Bucket="cats")
    for one in client.list_objects_v2(Bucket="cats").get("Contents", []):
        client.delete_object(Bucket="cats", Key=one["Key"])
    return client


@pytest.fixture
def die() -> Iterator[Die]:
    """Push in another process, which dies at a step; its exit code."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.push_killer"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:

        def push(run: Path, url: str, step: int) -> int:
            killer.stdin.write(json.dumps([str(run), url, step]) + "\n")
            killer.stdin.flush()
            return int(killer.stdout.readline())

        yield push
        killer.stdin.close()
