"""Sessions that are lost, cancelled, in each other's way, or of a server that only reads."""

import anyio
import psycopg
import pytest
from pydantic import SecretStr, ValidationError
from sql_records import records
from sql_writing import opened, write

from nvisy_connectors.sql.postgres import PostgresConnection, PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import (
    ConfigError,
    EpochLostError,
    Progress,
    TransientError,
)

pytestmark = pytest.mark.anyio


async def test_a_server_that_only_reads_is_left_for_the_one_behind_its_address(database):
    """After a failover, the address leads to the new primary as soon as one connects anew."""
    batch = records({"n": range(3)})
    await write(database.connection, [batch])
    database.query("CREATE SEQUENCE tries")
    database.query("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          IF nextval('tries') = 1 THEN
            RAISE EXCEPTION 'cannot execute UPDATE in a read-only transaction'
              USING ERRCODE = 'read_only_sql_transaction';
          END IF; RETURN NULL; END $$
    """)
    database.query("CREATE TRIGGER refuse AFTER UPDATE ON t EXECUTE FUNCTION refuse()")
    own = "SELECT pid FROM pg_stat_activity WHERE application_name = 'nvisy'"
    async with await opened(database.connection) as sink:
        await sink.start(Progress("next", 0))
        before = database.query(own)
        with pytest.raises(TransientError, match="read-only"):
            await sink.write(batch)
        await sink.write(batch)
        await sink.commit(1)
        assert database.query(own) != before


async def test_a_lost_session_loses_its_epoch_and_says_so(database):
    async with await opened(database.connection, mode="append") as sink:
        await sink.start(Progress("run", 0))
        await sink.write(records({"n": [0]}))
        await sink.commit(1)
        # Nothing is lost yet: the next write gets a new session.
        database.server.terminate_sessions()
        with pytest.raises(TransientError) as error:
            await sink.write(records({"n": [1]}))
        assert not isinstance(error.value, EpochLostError)
        await sink.write(records({"n": [1]}))
        database.server.terminate_sessions()
        for _ in range(2):
            with pytest.raises(EpochLostError):
                await sink.write(records({"n": [2]}))
        with pytest.raises(EpochLostError):
            await sink.commit_with_checkpoint(2, "key", b"")
    assert database.numbers() == [0]


async def test_a_cancelled_call_cannot_be_half_committed(database):
    held, free = records({"n": [0]}), records({"n": [1]}, 1)
    await write(database.connection, [held])
    with psycopg.connect(database.url) as rival:
        rival.execute("UPDATE t SET n = 5")  # not committed: who writes the row must wait
        async with await opened(database.connection) as sink:
            await sink.start(Progress("run", 0))
            await sink.write(free)
            with anyio.move_on_after(0.3) as scope:
                await sink.write(records({"n": [7]}))
            assert scope.cancelled_caught
            with pytest.raises(EpochLostError):
                await sink.commit(1)
    assert database.numbers() == [5]


async def test_a_deadlock_costs_one_its_epoch_and_the_other_nothing(database):
    first, second = records({"n": [1]}), records({"n": [2]}, 1)
    await write(database.connection, [first, second])
    left, right = (
        PostgresSink(PostgresSinkParams(table="t"), database.connection, node_id=node)
        for node in ("left", "right")
    )
    async with left, right:
        await left.start(Progress("left", 0))
        await right.start(Progress("right", 0))
        await left.write(records({"n": [10]}))
        await right.write(records({"n": [20]}, 1))
        lost = []

        async def cross(sink, batch):
            try:
                await sink.write(batch)
            except EpochLostError as error:
                lost.append((sink, str(error)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(cross, left, records({"n": [11]}, 1))
            tasks.start_soon(cross, right, records({"n": [21]}))
        ((loser, why),) = lost
        assert "deadlock" in why
        winner = left if loser is right else right
        await winner.commit(1)
        with pytest.raises(EpochLostError):
            await loser.commit(1)
    assert database.numbers() == ([10, 11] if winner is left else [20, 21])


class TestConnections:
    async def test_wrong_password(self, database):
        wrong = database.connection.model_copy(update={"password": SecretStr("nonsense-secret")})
        with pytest.raises(ConfigError) as error:
            await opened(wrong)
        assert error.value.tag == "auth"
        assert "nonsense-secret" not in str(error.value)

    async def test_no_such_database(self, database):
        with pytest.raises(ConfigError) as error:
            await opened(database.connection.model_copy(update={"database": "nowhere"}))
        assert error.value.tag == "not_found"

    async def test_nobody_listens(self, database):
        with pytest.raises(TransientError) as error:
            await opened(database.connection.model_copy(update={"port": 1}))
        assert error.value.tag == "connection"

    async def test_no_rights(self, database):
        database.query("CREATE ROLE weak LOGIN PASSWORD 'weak-password'")
        weak = database.connection.model_copy(
            update={"username": "weak", "password": SecretStr("weak-password")}
        )
        try:
            with pytest.raises(ConfigError, match="CREATE TABLE IF NOT EXISTS") as error:
                await write(weak, [records({"n": [1]})])
            assert error.value.tag == "auth"
        finally:
            database.query("DROP ROLE weak")

    async def test_by_url(self, database):
        connection = PostgresConnection(url=SecretStr(database.url), application_name="by url")
        await write(connection, [records({"n": [1]})])
        assert database.numbers() == [1]
        assert connection.location() == database.connection.location()
        assert database.server.password not in f"{connection!r} {connection.location()}"
        sink = PostgresSink(PostgresSinkParams(table="t"), connection)
        assert sink.location() == f"{connection.location()}/public.t"

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"host": "h"},
            {"host": "h", "database": "d"},
            {"url": "mysql://u@h/d"},
            {"url": "postgresql://u:secret-word@h:x/d"},
            {"url": "postgresql://h/d", "host": "h"},
            {"host": "h", "database": "d", "username": "u", "port": 0},
            {"host": "h", "database": "d", "username": "u", "sslmode": "maybe"},
        ],
    )
    def test_what_makes_no_sense(self, fields):
        with pytest.raises(ValidationError) as error:
            PostgresConnection.model_validate(fields)
        assert "secret-word" not in str(error.value)
