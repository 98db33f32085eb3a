"""Removing rows whose transaction is more than 2^31 transactions ago: numbers wrapped around."""

import subprocess

import pytest
from servers import postgres
from sql_database import Database
from sql_records import records
from sql_writing import write

from nvisy_connectors.sql.postgres import PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import Progress

pytestmark = pytest.mark.anyio

PER_SEGMENT = 1 << 20
"""Transactions of which one file of `pg_xact` tells."""


def advance(server: postgres.PostgresServer, xid: int) -> None:
    """Let the server count on from a number, as if so many transactions had been."""
    server.query("ALTER DATABASE template0 ALLOW_CONNECTIONS true")
    for database in ("postgres", "template0", "template1"):
        server.query("VACUUM FREEZE", database=database)
    server.query("CHECKPOINT")
    server.stop()
    segment = server._data / "pg_xact" / f"{xid // PER_SEGMENT:04X}"
    segment.write_bytes(bytes(PER_SEGMENT // 4))
    command = [postgres._program("pg_resetwal"), "-x", str(xid), "-D", str(server._data)]
    subprocess.run(command, check=True, capture_output=True, **postgres._unprivileged())
    segment.chmod(0o666)
    server.start()


async def test_rows_of_long_ago_are_removed_and_new_ones_stay():
    with postgres.postgres_server() as server:
        database = Database.emptied(server)
        old = records({"n": range(4)})
        await write(database.connection, [old])
        for xid in (1_500_000_000, 2**31 + 10_000_000):
            advance(server, xid)
        params = PostgresSinkParams(table="t")
        async with PostgresSink(params, database.connection, node_id="out") as sink:
            await sink.start(Progress("next", 0))
            await sink.write(records({"n": [100]}))
            await sink.remove(old["_root_id"].slice(0, 3))
            await sink.commit(1)
        assert database.query("SELECT n FROM t ORDER BY n") == [(3,), (100,)]
