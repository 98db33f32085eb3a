"""Qdrant in both of its forms."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from nvisy_connectors.vector.qdrant import QdrantConnection

API_KEY = "correct-horse"
FACADE = Path(__file__).parents[1] / "servers" / "qdrant_facade.py"


@dataclass(frozen=True)
class Server:
    """The facade of `tests/servers`, and its switches."""

    url: str

    @property
    def connection(self) -> QdrantConnection:
        return QdrantConnection(url=self.url, api_key=SecretStr(API_KEY), timeout_seconds=1)

    def set_faults(self, *faults: dict[str, Any]) -> None:
        self._ask("PUT", "/_facade/faults", json.dumps(faults).encode())

    def requests(self, method: str, end: str) -> list[dict[str, Any]]:
        asked = self._ask("GET", "/_facade/requests")
        return [r for r in asked if r["method"] == method and r["path"].endswith(end)]

    def _ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        request = urllib.request.Request(self.url + path, body, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="session")
def facade() -> Iterator[Server]:
    command = [sys.executable, str(FACADE), "--api-key", API_KEY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Server(f"http://127.0.0.1:{int(process.stdout.readline())}")
        finally:
            process.kill()


@pytest.fixture
def server(facade: Server) -> Server:
    """The facade without faults; collections are told apart by name."""
    facade.set_faults()
    return facade


@pytest.fixture
def collection(request: pytest.FixtureRequest) -> str:
    """A name that no other test uses."""
    return "".join(c if c.isalnum() else "_" for c in request.node.nodeid)[-150:]


@pytest.fixture(params=["folder", "server"])
def connection(request: pytest.FixtureRequest) -> QdrantConnection:
    """Both back ends, one after the other."""
    if request.param == "folder":
        return QdrantConnection(path=request.getfixturevalue("tmp_path") / "vectors")
    return request.getfixturevalue("server").connection
