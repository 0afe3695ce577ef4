"""A server that speaks S3, for tests: moto, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import NamedTuple
from urllib.request import Request, urlopen

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "not-a-secret",
    "AWS_REGION": "us-east-1",
}
PROGRAM = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)
sys.stdin.read()
"""
_numbers = count()


class S3(NamedTuple):
    """A running server: its address."""

    endpoint: str

    def bucket(self) -> str:
        """A new bucket, as a place for snapshots names it."""
        name = f"snapshots-{next(_numbers)}"
        with urlopen(Request(f"{self.endpoint}/{name}", method="PUT")) as answer:
            assert answer.status == 200
        return f"s3://{name}/folder"


@contextmanager
def s3_server() -> Iterator[S3]:
    """A server until the block ends; the environment has credentials for it meanwhile."""
    before = {name: os.environ.get(name) for name in CREDENTIALS}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        os.environ.update(CREDENTIALS)
        try:
            lines = (line.strip() for line in process.stdout)
            yield S3(next(line for line in lines if line.startswith("http://")))
        finally:
            process.stdin.close()
            process.wait(10)
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
