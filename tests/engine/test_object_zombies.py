"""A worker that was stopped with a write under way changes nothing of what its successor wrote."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from object_target import check_complete
from servers.fault_proxy import FaultProxy, fault_proxy
from servers.seaweedfs import S3Server
from test_object_storage import client, environment, s3_server

__all__ = ["environment", "s3_server"]

KNOWN_RUNS = "origins.json"
EXPIRED_SECONDS = 1.3
"""A little longer than the leases of `start`."""


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[FaultProxy]:
    with fault_proxy(s3_server.endpoint) as proxy:
        yield proxy


def start(folder: Path, **environment: str) -> "subprocess.Popen[str]":
    here = Path(__file__).parent
    return subprocess.Popen(
        [sys.executable, str(here / "object_target.py"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(here), "NVISY_LEASE_SECONDS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def objects(server: S3Server, prefix: str) -> dict[str, str]:
    """What the store holds, by key, and when it was written: the same bytes again count too.

    What leases say of their holders is left out, and which runs are known.
    """
    return {
        found["path"]: f"{found['e_tag']} {found['last_modified']}"
        for batch in client(server).list(prefix)
        for found in batch
        if "/lease/" not in found["path"] and not found["path"].endswith(KNOWN_RUNS)
    }


def known_runs(server: S3Server, prefix: str) -> set[str]:
    """The runs that are known: a late one may still add itself, and removes no other."""
    document = client(server).get(f"{prefix}/graphs/target/{KNOWN_RUNS}").bytes()
    return set(json.loads(bytes(document))["runs"])


def listed(server: S3Server, prefix: str) -> set[str]:
    """Names of the files that checkpoints list."""
    store = client(server)
    found: set[str] = set()
    for key in objects(server, prefix):
        if key.endswith("/checkpoint.json"):
            document = json.loads(bytes(store.get(key).bytes()))
            found |= {part["file"] for parts in document["parts"].values() for part in parts}
    return found


def wait_until_stopped(process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        told = Path(f"/proc/{process.pid}/stat").read_text()
        if told.rpartition(")")[2].split()[0] == "T":
            return
        time.sleep(0.01)
    raise TimeoutError


def check_only_litter_is_new(
    server: S3Server, prefix: str, before: dict[str, str], kept: set[str], runs: set[str]
) -> None:
    """A late write may leave a file that nobody lists, and nothing else."""
    after = objects(server, prefix)
    assert {key: after.get(key) for key in before} == before
    assert runs <= known_runs(server, prefix)
    for key in after.keys() - before.keys():
        assert key.endswith(".arrow"), key
        assert key.rpartition("/")[2] not in kept


def revive(folder: Path, server: S3Server, zombie: "subprocess.Popen[str]") -> None:
    """Let another run come to the end elsewhere, and then the stopped one go on."""
    time.sleep(EXPIRED_SECONDS)
    again = start(folder, NVISY_WORK=str(folder / "elsewhere"))
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    check_complete(folder, output)
    before, kept = objects(server, folder.name), listed(server, folder.name)
    runs = known_runs(server, folder.name)

    zombie.send_signal(signal.SIGCONT)
    _, errors = zombie.communicate(timeout=180)

    assert zombie.returncode == 1, "it ended well"
    assert "took over from run" in errors or "another process replaced" in errors, errors[-2000:]
    check_only_litter_is_new(server, folder.name, before, kept, runs)
    check_complete(folder, output)


@pytest.mark.parametrize(
    "place",
    [
        "object.before_put:7",
        pytest.param("object.after_upload:3", marks=pytest.mark.soak),
        pytest.param("part.before_close:3", marks=pytest.mark.soak),
        pytest.param("object.before_upload:1", marks=pytest.mark.soak),
        pytest.param("object.before_put:4", marks=pytest.mark.soak),
        pytest.param("object.before_put:5", marks=pytest.mark.soak),
        pytest.param("checkpoint.before_write:3", marks=pytest.mark.soak),
    ],
)
def test_stopped_between_looking_and_writing(
    environment: Any, s3_server: S3Server, tmp_path: Path, place: str
) -> None:
    zombie = start(tmp_path, NVISY_FAILPOINT=f"{place}:SIGSTOP")
    wait_until_stopped(zombie)
    revive(tmp_path, s3_server, zombie)


@pytest.mark.parametrize(
    "number",
    [6, *(pytest.param(n, marks=pytest.mark.soak) for n in (2, 3, 4, 5, 7, 8, 9, 10, 11, 12))],
)
def test_a_write_that_arrives_late(
    environment: Any, s3_server: S3Server, proxy: FaultProxy, tmp_path: Path, number: int
) -> None:
    """It left the worker in time, and reaches the store after another has come to the end."""
    proxy.hold(number)
    zombie = start(tmp_path, AWS_ENDPOINT_URL=proxy.endpoint)
    assert proxy.held.wait(50), "it wrote less often"
    zombie.send_signal(signal.SIGSTOP)
    time.sleep(EXPIRED_SECONDS)
    again = start(tmp_path, NVISY_WORK=str(tmp_path / "elsewhere"))
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    check_complete(tmp_path, output)
    before, kept = objects(s3_server, tmp_path.name), listed(s3_server, tmp_path.name)
    runs = known_runs(s3_server, tmp_path.name)

    proxy.released.set()
    time.sleep(0.5)  # the store takes it, or not
    check_only_litter_is_new(s3_server, tmp_path.name, before, kept, runs)
    zombie.send_signal(signal.SIGCONT)
    _, errors = zombie.communicate(timeout=180)
    assert zombie.returncode == 1, "it ended well"
    check_only_litter_is_new(s3_server, tmp_path.name, before, kept, runs)
    check_complete(tmp_path, output)


def test_a_file_that_came_late_is_litter_to_the_next_run(
    environment: Any, s3_server: S3Server, tmp_path: Path
) -> None:
    """What a zombie left is not read, and is gone with its chain."""
    zombie = start(tmp_path, NVISY_FAILPOINT="object.before_upload:3:SIGSTOP")
    wait_until_stopped(zombie)
    revive(tmp_path, s3_server, zombie)
    litter = {key for key in objects(s3_server, tmp_path.name) if "/edges/" in key}
    for name in ("paid.db", "ledger"):
        (tmp_path / name).unlink()
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    again = start(tmp_path)
    output, errors = again.communicate(timeout=180)
    assert again.returncode == 0, errors
    check_complete(tmp_path, output)
    assert not litter & objects(s3_server, tmp_path.name).keys()
