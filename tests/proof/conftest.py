"""Servers and places that the proof needs."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Case
from servers.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def make_case(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Case]:
    """Makes a case; one that writes a table starts the server first."""

    def make(kind: str, **options: Any) -> Case:
        if kind == "table":
            server: PostgresServer = request.getfixturevalue("postgres")
            options["connections"] = {"base": {"type": "postgres", "url": server.url}}
        return Case(tmp_path / "case", kind=kind, **options)

    return make
