"""Writing records to a table of PostgreSQL."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.sql.postgres.checkpoints import Checkpoints
from nvisy_connectors.sql.postgres.connection import PostgresConnection
from nvisy_connectors.sql.postgres.encoding import Encoded, encode
from nvisy_connectors.sql.postgres.errors import classify
from nvisy_connectors.sql.postgres.fitting import Plan, create_statement, make_plan, targets
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_connectors.sql.postgres.session import Session
from nvisy_connectors.sql.postgres.table import Table, find_table, find_vectors
from nvisy_connectors.sql.postgres.types import column_kind
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    Connection,
    DataError,
    EdgeType,
    EpochLostError,
    Progress,
    Sink,
    TransientError,
    connection_of,
    raise_mistakes,
)

MOST_ROWS = 32_768
MOST_BYTES = 16 * 2**20
"""Size of one unit: what is copied, merged and, when refused, searched at once."""

MOST_SAVEPOINTS = 1 << 24
"""Of all transactions that are under way at once."""


class PostgresSink(Sink[PostgresSinkParams]):
    """Writes records to a PostgreSQL table, in one transaction per checkpoint.

    Records are copied in bulk into a temporary table and merged from it by one statement; of
    several records with one key, the last one wins. The transaction of an epoch also holds the
    position of the run, in the table `_nvisy_checkpoints` of the same schema. So each record is
    written exactly once, in the mode `append` too, whatever process dies at whatever moment, as
    long as no other sink or materialized output belongs to the stage; otherwise an epoch may be
    written again after a crash, which `upsert` does not show.

    Envelope columns are stored as `_id uuid`, `_parent_ids uuid[]`, `_root_id uuid`, `_source
    jsonb`, `_created_at timestamptz`, `_tags text[]` and `_metadata jsonb`; a table of your own
    need only have those that you want. Structs become `jsonb`, lists arrays, vectors `vector(d)` of
    pgvector where it is installed, else `real[]`.
    """

    name = "postgres"
    connection_type = PostgresConnection
    capabilities = Capabilities(write_mode="transaction", concurrency=2, removes=True)
    keeps_checkpoint = True
    requires = ("psycopg",)
    extra = "sql"

    def __init__(
        self,
        params: PostgresSinkParams,
        connection: Connection | None = None,
        *,
        node_id: str = "",
        folder: Path | None = None,
    ) -> None:
        super().__init__(params, connection, node_id=node_id, folder=folder)
        self._session: Session | None = None
        self._plans: dict[pa.Schema, Plan] = {}
        self._vectors: str | None = None
        self._fence = ""
        self._claim: int | None = None
        self._keys: set[str] = set()
        self._pending = False
        """Whether something is written that is not committed."""
        self._turn = anyio.Lock()
        self._last_write = anyio.Event()
        self._last_write.set()

    def location(self) -> str | None:
        """`postgres://host:port/database/schema.table`."""
        base = super().location()
        return f"{base}/{self.params.schema}.{self.params.table}" if base else None

    def check(self, incoming: EdgeType) -> None:
        """Refuse columns that PostgreSQL has no type for, and params that do not fit them.

        Raises:
            ConfigError: The incoming records do not fit.
        """
        if incoming.schema is None:
            return
        mistakes: list[ConfigError] = []
        try:
            taken = list(targets(incoming.schema, self.params))
        except ConfigError as error:
            mistakes.append(error)
            taken = []
        for name in taken:
            kind = incoming.schema.field(name).type
            if column_kind(incoming.schema.field(name), vectors=True) is None:
                mistakes.append(
                    ConfigError(
                        f"column {name!r} is of type {kind}, for which PostgreSQL has none",
                        remedy="convert it before, or leave it out with the param 'columns'",
                        tag="schema",
                    )
                )
        raise_mistakes(mistakes)

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Cut a batch into what is copied at once."""
        by_size = batch.num_rows * MOST_BYTES // max(batch.nbytes, 1)
        rows = max(1, min(MOST_ROWS, by_size))
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)

    async def open(self) -> None:
        """Log in, and look at the table.

        Raises:
            ConfigError: The credentials are refused, or the table is missing and must not be made.
            TransientError: The server cannot be reached.
        """
        self._address: PostgresConnection = connection_of(self, PostgresConnection)
        self._checkpoints = Checkpoints(self.params.schema)
        self.stack.push_async_callback(self._drop)
        async with self._working() as session:
            self._vectors = await find_vectors(session.connection)
            if await self._find(session) is None and not self.params.create:
                raise ConfigError(
                    f"there is no table {self._place()}, and 'create' is false",
                    remedy="create the table, or set 'create' to true",
                    tag="not_found",
                )

    async def start(self, progress: Progress) -> None:
        """Take the run over from whatever worker had it.

        Raises:
            ConfigError: A newer worker has it, or the table of checkpoints cannot be made.
        """
        self._fence = f"{progress.id}/{self.node_id}/fence"
        token = getattr(progress, "token", 0)
        async with self._working() as session:
            await self._checkpoints.prepare(session.connection)
            self._claim = await self._checkpoints.claim(session.connection, self._fence, token)

    async def stored_checkpoint(self, key: str) -> bytes | None:
        """The document of the last transaction."""
        async with self._working() as session:
            return await self._checkpoints.read(session.connection, key)

    async def write(self, batch: pa.RecordBatch) -> None:
        """Copy and merge one unit; it is durable, and seen by others, when its epoch is committed.

        Raises:
            DataError: Some rows are refused: they break a constraint, or do not fit a column.
            ConfigError: Columns or types do not fit those of the table.
            TransientError: The same call may succeed later; `EpochLostError` if what was written
                before is undone.
        """
        if not batch.num_rows:
            return
        before, self._last_write = self._last_write, anyio.Event()
        mine = self._last_write
        try:
            plan = await self._plan(batch.schema)
            encoded = await to_thread.run_sync(encode, batch, plan.columns)
            # One batch is encoded while the one before it is sent; their order stays.
            await before.wait()
            refused = await self._send(plan, encoded) if encoded.rows else {}
        finally:
            mine.set()
        if refused:
            raise DataError(
                f"{len(refused)} of {batch.num_rows} records cannot be stored in {self._place()}",
                rows=refused,
            )

    async def commit(self, epoch: int) -> None:  # noqa: ARG002 - the same work at every barrier
        """Commit the transaction.

        Raises:
            EpochLostError: The session is gone, and with it what was written.
        """
        async with self._working(keep=True) as session:
            await self._commit(session)

    async def commit_with_checkpoint(self, epoch: int, key: str, document: bytes) -> None:
        """Commit the transaction, with the checkpoint in it.

        Raises:
            EpochLostError: The session is gone; `stored_checkpoint` tells whether it had committed.
        """
        async with self._working(keep=True) as session:
            self._keys.add(key)
            await session.begin()
            self._pending = True  # whatever happens from here on, only reading it again will tell
            await self._checkpoints.store(session.connection, key, epoch, document)
            await self._commit(session)

    async def remove(self, root_ids: pa.Array) -> None:
        """Delete the rows that came from these source records, but none that this epoch wrote.

        It happens with the epoch's transaction.

        Raises:
            ConfigError: The table has no column for `_root_id`.
        """
        import uuid

        from psycopg import sql

        target = self.params.columns.get("_root_id", "_root_id")
        async with self._working() as session:
            table = await self._find(session)
            if table is None:
                return
            if target is None or target not in table.columns:
                raise ConfigError(
                    f"{self._place()} has no column '_root_id', which tells what a removed source "
                    "record left",
                    remedy="add it: ALTER TABLE ... ADD COLUMN _root_id uuid; and begin anew",
                    tag="schema",
                )
            ids = [uuid.UUID(bytes=one) for one in root_ids.to_pylist()]
            await session.begin()
            await session.connection.execute(
                # Written by this transaction, or by one beside it, are rows from its number on to
                # the newest number there is; of its savepoints some may be newer than the snapshot
                # says. Numbers begin anew after 2^32, and a row keeps the one it was written with:
                # hence the distance, not `age`, which sees the older half of all rows as new.
                sql.SQL(
                    "DELETE FROM {} WHERE CAST({} AS uuid) = ANY({}) "
                    "AND "
                    "((xmin::text::bigint - pg_current_xact_id()::text::bigint) & 4294967295) > "
                    "pg_snapshot_xmax(pg_current_snapshot())::text::bigint "
                    "- pg_current_xact_id()::text::bigint + {}"
                ).format(
                    sql.Identifier(self.params.schema, self.params.table),
                    sql.Identifier(target),
                    sql.Literal(ids),
                    sql.Literal(MOST_SAVEPOINTS),
                )
            )
            self._pending = True

    async def finish(self) -> None:
        """Note that the run is at its end."""
        async with self._working() as session:
            await self._checkpoints.finish(session.connection, [self._fence, *self._keys])

    async def _send(self, plan: Plan, encoded: Encoded) -> dict[int, str]:
        async with self._working() as session:
            await session.begin()
            staging = await session.staging(plan, self.params, self._vectors)
            rows = len(encoded.rows)
            refused = await staging.write(session.connection, encoded.data, rows)
            self._pending = True
        return encoded.refused | {encoded.rows[row]: why for row, why in refused.items()}

    async def _commit(self, session: Session) -> None:
        if session.in_transaction:
            await self._checkpoints.lock(session.connection, self._fence, self._claim or 0)
            await session.commit()
        self._pending = False

    async def _plan(self, schema: pa.Schema) -> Plan:
        bare = schema.remove_metadata()
        if bare not in self._plans:
            async with self._working() as session:
                if bare not in self._plans:
                    self._plans[bare] = await self._make_plan(session, bare)
        return self._plans[bare]

    async def _make_plan(self, session: Session, schema: pa.Schema) -> Plan:
        vectors = self._vectors is not None
        table = await self._find(session)
        plan = make_plan(schema, self.params, table, self._place(), vectors=vectors)
        if table is None:
            await self._create(plan)
            # Another worker may have made it at the same moment, for other records.
            table = await self._find(session)
            plan = make_plan(schema, self.params, table, self._place(), vectors=vectors)
        return plan

    async def _create(self, plan: Plan) -> None:
        """Make the table, in a session of its own: not in the transaction of an epoch."""
        import psycopg

        session = await Session.connect(self._address)
        try:
            await session.connection.execute(create_statement(plan, self.params, self._vectors))
        except psycopg.errors.UniqueViolation:
            pass  # another worker made it at the same moment
        finally:
            await session.close()

    async def _find(self, session: Session) -> Table | None:
        return await find_table(session.connection, self.params, self._place())

    @asynccontextmanager
    async def _working(self, *, keep: bool = False) -> AsyncGenerator[Session]:
        """The session, for one call alone; what fails in it is translated.

        Args:
            keep: Whether an error ends the session: nobody knows what became of it.
        """
        import psycopg

        async with self._turn:
            try:
                session = await self._ready()
                yield session
            except psycopg.Error as error:
                failure = classify(error, self._place())
                # A transaction that goes on after a deadlock keeps its locks, and meets it again.
                if keep or self._is_broken() or isinstance(failure, TransientError):
                    await self._drop()
                lost = self._pending and self._session is None
                # What only a change can mend is told as that, whatever is lost besides.
                if lost and isinstance(failure, TransientError):
                    raise self._lost(failure.message, failure.remedy) from error
                raise failure from error
            except (ConfigError, DataError, TransientError):
                raise
            except BaseException:
                # Cancelled half way, or a bug: what the transaction holds is anybody's guess.
                with anyio.CancelScope(shield=True):
                    await self._drop()
                raise

    async def _ready(self) -> Session:
        if self._session is not None and self._is_broken():
            await self._drop()
        if self._session is None:
            if self._pending:
                raise self._lost("the session is gone")
            self._session = await Session.connect(self._address)
            if self._claim is not None:
                await self._checkpoints.rejoin(self._session.connection, self._fence, self._claim)
        return self._session

    def _is_broken(self) -> bool:
        from psycopg.pq import TransactionStatus

        if self._session is None:
            return True
        connection = self._session.connection
        status = connection.info.transaction_status
        lost = {TransactionStatus.UNKNOWN, TransactionStatus.INERROR, TransactionStatus.ACTIVE}
        return connection.closed or connection.broken or status in lost

    async def _drop(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(OSError):
                await session.close()

    def _lost(self, why: str, remedy: str | None = None) -> EpochLostError:
        return EpochLostError(
            f"{why}; what was written to {self._place()} since the last checkpoint is undone",
            remedy=remedy,
        )

    def _place(self) -> str:
        return f"{self.params.schema}.{self.params.table}"
