"""A PostgreSQL for the tests of the connector, and an empty database for each."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers.postgres import PostgresServer, postgres_server
from sql_database import Database

# The counter that the tests of the engine read.
sys.path.append(str(Path(__file__).parents[1] / "engine"))


@pytest.fixture(scope="session")
def server() -> Iterator[PostgresServer]:
    """One server for all tests that leave it running."""
    with postgres_server() as running:
        yield running


@pytest.fixture
def database(server: PostgresServer) -> Database:
    """An empty database."""
    return Database.emptied(server)


@pytest.fixture
def vectors(database: Database) -> Database:
    """The same, with pgvector."""
    database.query("CREATE EXTENSION vector")
    return database
