"""The session of a sink: one connection, and in it one transaction for each epoch."""

from typing import TYPE_CHECKING, Any

from nvisy_connectors.sql.postgres.connection import PostgresConnection
from nvisy_connectors.sql.postgres.fitting import Plan
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_connectors.sql.postgres.staging import Staging

if TYPE_CHECKING:
    from psycopg import AsyncConnection

LOCK_TIMEOUT = "60s"

# Commits that are lost when the server dies would be missed: the checkpoint is ahead of them.
_SETTINGS = f"""
SELECT set_config('TimeZone', 'UTC', false),
       set_config('lock_timeout', '{LOCK_TIMEOUT}', false),
       set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                  WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""


class Session:
    """An open connection and what was made in it.

    Args:
        connection: The connection, in autocommit mode.
    """

    def __init__(self, connection: "AsyncConnection[Any]") -> None:
        self.connection = connection
        self.in_transaction = False
        self._staging: dict[int, Staging] = {}

    @classmethod
    async def connect(cls, to: PostgresConnection) -> "Session":
        """Connect, and set what the sink relies on."""
        from psycopg import AsyncConnection

        connection = await AsyncConnection.connect(
            **to.settings(), autocommit=True, prepare_threshold=None
        )
        try:
            await connection.execute(_SETTINGS)  # pyright: ignore[reportArgumentType] - our own words
        except BaseException:
            await connection.close()
            raise
        return cls(connection)

    async def close(self) -> None:
        """Close it; a transaction that is open is undone."""
        await self.connection.close()

    async def begin(self) -> None:
        """Begin the transaction of an epoch, unless it is open."""
        if not self.in_transaction:
            await self.connection.execute("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE")
            self.in_transaction = True
            # What a constraint refuses must be known while the guilty rows are.
            await self.connection.execute("SET CONSTRAINTS ALL IMMEDIATE")

    async def commit(self) -> None:
        """Commit what is open."""
        if self.in_transaction:
            await self.connection.execute("COMMIT")
            self.in_transaction = False

    async def staging(self, plan: Plan, params: PostgresSinkParams, vectors: str | None) -> Staging:
        """The staging table of a plan, made when it is first asked for."""
        if id(plan) not in self._staging:
            staging = Staging(plan, params, len(self._staging), vectors)
            await self.connection.execute(staging.create)
            self._staging[id(plan)] = staging
        return self._staging[id(plan)]
