"""The table of checkpoints beside the data, and the fence that keeps all but one worker out."""

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nvisy_dagster.sdk import ConfigError

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import SQL

TABLE = "_nvisy_checkpoints"
KEPT_DAYS = 30

_CREATE = """
CREATE TABLE IF NOT EXISTS {table} (
  key text PRIMARY KEY,
  token bigint NOT NULL DEFAULT 0,
  claim bigint NOT NULL DEFAULT 0,
  pid integer,
  started timestamptz,
  epoch bigint,
  document bytea,
  finished boolean NOT NULL DEFAULT false,
  updated_at timestamptz NOT NULL DEFAULT now()
)
"""
_EXISTS = """
SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_HOLDER = "SELECT token, pid, started FROM {table} WHERE key = %s"
_TERMINATE = """
SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity
WHERE pid = %s AND backend_start = %s AND pid <> pg_catalog.pg_backend_pid()
"""
_MINE = """pg_catalog.pg_backend_pid(),
(SELECT backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid())"""
_CLAIM = """
INSERT INTO {table} AS held (key, token, claim, pid, started) VALUES (%s, %s, 1, {mine})
ON CONFLICT (key) DO UPDATE SET token = EXCLUDED.token, claim = held.claim + 1,
  pid = EXCLUDED.pid, started = EXCLUDED.started, finished = false, updated_at = now()
WHERE held.token <= EXCLUDED.token
RETURNING claim
"""
_REJOIN = """
UPDATE {table} SET (pid, started) = ROW({mine}) WHERE key = %s AND claim = %s RETURNING claim
"""
_LOCK = "SELECT claim FROM {table} WHERE key = %s FOR UPDATE"
_READ = "SELECT document FROM {table} WHERE key = %s"
_STORE = """
INSERT INTO {table} (key, epoch, document) VALUES (%s, %s, %s)
ON CONFLICT (key) DO UPDATE SET epoch = EXCLUDED.epoch, document = EXCLUDED.document,
  finished = false, updated_at = now()
"""
_FINISH = "UPDATE {table} SET finished = true, updated_at = now() WHERE key = ANY(%s)"
# What never came to its end stays, for it may yet be gone on with.
_FORGET = """
DELETE FROM {table} WHERE finished AND updated_at < now() - make_interval(days => %s)
"""


class Checkpoints:
    """The table of one schema.

    A worker claims a key when it starts, which ends the session of the one that held it before; a
    commit that does not find its claim is refused. So what a stopped worker had under way is
    undone, and when it is revived it can commit nothing.

    Args:
        schema: Where the table is.
    """

    def __init__(self, schema: str) -> None:
        from psycopg import sql

        # A `%` in a name would be taken for a parameter of the query.
        self._table = sql.Identifier(schema, TABLE).as_string(None).replace("%", "%%")
        self._schema = schema

    async def prepare(self, connection: "AsyncConnection[Any]") -> None:
        """Make the table if it is missing, and forget what ended long ago.

        Raises:
            ConfigError: It cannot be made.
        """
        import psycopg

        found = await connection.execute(_EXISTS, [self._schema, TABLE])
        if await found.fetchone() is None:
            try:
                await connection.execute(self._sql(_CREATE, parameters=False))
            except psycopg.errors.UniqueViolation:
                pass  # another worker made it at the same moment
            except psycopg.errors.InsufficientPrivilege as error:
                statement = " ".join(self._sql(_CREATE, parameters=False).as_string(None).split())
                raise ConfigError(
                    f"the user may make no table in schema {self._schema!r}, and the progress of "
                    "runs is kept in one, beside the data",
                    remedy=f"have it made: {statement}; and grant SELECT, INSERT, UPDATE, DELETE",
                    tag="auth",
                ) from error
        await connection.execute(self._sql(_FORGET), [KEPT_DAYS])

    async def claim(self, connection: "AsyncConnection[Any]", key: str, token: int) -> int:
        """Take a key over from whoever holds it; returns the number of the claim.

        Raises:
            ConfigError: A newer worker holds it.
        """
        import psycopg

        found = await connection.execute(self._sql(_HOLDER), [key])
        holder = await found.fetchone()
        if holder is not None:
            if holder[0] > token:
                raise _taken_over()
            # A session of another user ends by itself, and its commit is refused.
            with suppress(psycopg.errors.InsufficientPrivilege):
                await connection.execute(_TERMINATE, holder[1:])
        found = await connection.execute(self._sql(_CLAIM), [key, token])
        claimed = await found.fetchone()
        if claimed is None:
            raise _taken_over()
        return claimed[0]

    async def rejoin(self, connection: "AsyncConnection[Any]", key: str, claim: int) -> None:
        """Hold a claim with a new session.

        Raises:
            ConfigError: Another worker has claimed the key since.
        """
        found = await connection.execute(self._sql(_REJOIN), [key, claim])
        if await found.fetchone() is None:
            raise _taken_over()

    async def lock(self, connection: "AsyncConnection[Any]", key: str, claim: int) -> None:
        """Make sure, to the end of the transaction, that the claim holds.

        Raises:
            ConfigError: Another worker has claimed the key.
        """
        found = await connection.execute(self._sql(_LOCK), [key])
        row = await found.fetchone()
        if row is None or row[0] != claim:
            raise _taken_over()

    async def read(self, connection: "AsyncConnection[Any]", key: str) -> bytes | None:
        """The document that was stored last."""
        found = await connection.execute(self._sql(_READ), [key])
        row = await found.fetchone()
        return None if row is None or row[0] is None else bytes(row[0])

    async def store(
        self, connection: "AsyncConnection[Any]", key: str, epoch: int, document: bytes
    ) -> None:
        """Replace the document, in the transaction that is open."""
        await connection.execute(self._sql(_STORE), [key, epoch, document])

    async def finish(self, connection: "AsyncConnection[Any]", keys: list[str]) -> None:
        """Note that nothing follows: the rows may be forgotten some day."""
        await connection.execute(self._sql(_FINISH), [keys])

    def _sql(self, text: str, *, parameters: bool = True) -> "SQL":
        from psycopg import sql

        table = self._table if parameters else self._table.replace("%%", "%")
        return sql.SQL(text.replace("{mine}", _MINE).replace("{table}", table))  # pyright: ignore[reportArgumentType] - our own, with a quoted name


def _taken_over() -> ConfigError:
    return ConfigError(
        "another worker has taken this run over; what this one had not committed is undone",
        remedy="nothing is to be done: the other one goes on from the last checkpoint",
        tag="conflict",
    )
