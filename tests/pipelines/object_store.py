"""An object store on this machine: moto's S3 server, in a thread of this process."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from unittest import mock

import fsspec

BUCKET = "bucket"


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 on the loopback address and point this process, and those it starts, to it; yields the endpoint."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with mock.patch.dict("os.environ", environment):
        fsspec.filesystem("s3").mkdir(BUCKET)
        try:
            yield environment["AWS_ENDPOINT_URL"]
        finally:
            server.stop()
