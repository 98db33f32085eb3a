"""Through Dagster: the worker is killed, or the worker and the code server; launched again, all is
well by the oracle."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from harness import SEED, Case
from living_files import living_files

HOME = """\
telemetry:
  enabled: false
run_coordinator:
  module: dagster._core.run_coordinator
  class: DefaultRunCoordinator
"""
FILE = str(Path(__file__).with_name("deployment.py"))
LONG = pytest.mark.timeout(400)


class Deployment:
    """A case that Dagster runs, with an instance of its own."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._home = case.folder / "dagster"
        self._home.mkdir()
        (self._home / "dagster.yaml").write_text(HOME)
        self.log = case.folder / "dagster.log"

    def start(self, *words: str, **environment: str) -> "subprocess.Popen[bytes]":
        """A process of Dagster's, in a process group of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dagster", *words],
                env={
                    **os.environ,
                    "DAGSTER_HOME": str(self._home),
                    "NVISY_PROOF_FOLDER": str(self.case.folder),
                    "NVISY_LEASE_SECONDS": "2",
                    **environment,
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def execute(self, **environment: str) -> "subprocess.Popen[bytes]":
        return self.start("job", "execute", "-f", FILE, "-j", "proof", **environment)

    def finish(self) -> None:
        assert self.execute().wait(180) == 0, self.log.read_text()[-3000:]
        self.case.check(complete=True)

    def worker(self) -> int:
        """The process that holds a lease."""
        for path in living_files(self.case.folder / "state", "lease/*.json"):
            with suppress(ValueError, FileNotFoundError):
                record = json.loads(path.read_text())
                if not record["released"]:
                    return int(record["pid"])
        return 0


@LONG
@pytest.mark.parametrize(
    "seed", [SEED, *(pytest.param(s, marks=pytest.mark.soak) for s in range(300, 309))]
)
def test_the_worker_is_killed(make_case: Callable[..., Case], seed: int) -> None:
    chance = random.Random(seed)
    case = make_case(chance.choice(["files", "both", "table"]), seed=seed)
    deployment = Deployment(case)
    places = ("sink.after_write", "sink.before_commit", "sink.after_commit")
    place = f"{chance.choice(places)}:{chance.randint(1, 2)}"
    killed = deployment.execute(NVISY_FAILPOINT=place)
    assert killed.wait(180) == -signal.SIGKILL, (place, deployment.log.read_text()[-3000:])
    case.check()
    deployment.finish()


@LONG
@pytest.mark.parametrize(
    "seed", [pytest.param(s, marks=pytest.mark.soak) for s in (SEED, *range(400, 404))]
)
def test_worker_and_code_server_are_killed(make_case: Callable[..., Case], seed: int) -> None:
    chance = random.Random(seed)
    kind = chance.choice(["files", "both", "table"])
    case = make_case(kind, seed=seed, rows=20_000, batch_rows=50)
    deployment = Deployment(case)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workspace = case.folder / "workspace.yaml"
    workspace.write_text(
        f"load_from:\n  - grpc_server: {{host: 127.0.0.1, port: {port}, location_name: code}}\n"
    )
    server = deployment.start("api", "grpc", "-f", FILE, "-h", "127.0.0.1", "-p", str(port))
    try:
        wait_for(lambda: is_listening(port))
        launch = deployment.start("job", "launch", "-w", str(workspace), "-j", "proof")
        assert launch.wait(180) == 0, deployment.log.read_text()[-3000:]
        wait_for(lambda: case.epoch() > 0 and deployment.worker())
        time.sleep(chance.uniform(0, 0.5))
        os.kill(deployment.worker(), signal.SIGKILL)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    case.check()
    deployment.finish()


def is_listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def wait_for(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
