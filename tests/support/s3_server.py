"""A real S3 server of this machine, and fixtures of it."""

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of this machine."""
    from moto.server import ThreadedMotoServer  # takes a second, in every process of the tests

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
    import boto3

    fsspec.get_filesystem_class(
        "s3"
    ).clear_instance_cache()  # it keeps what it found in the environment
    client = boto3.client("s3")
    client.create_bucket(Bucket="cats")
    for one in client.list_objects_v2(Bucket="cats").get("Contents", []):
        client.delete_object(Bucket="cats", Key=one["Key"])
    return client
