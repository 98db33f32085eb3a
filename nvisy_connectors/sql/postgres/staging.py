"""The staging table: records are copied into it, and merged from it by one statement."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from nvisy_connectors.sql.postgres.encoding import PlannedColumn
from nvisy_connectors.sql.postgres.errors import classify, told
from nvisy_connectors.sql.postgres.fitting import Plan, type_sql
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import DataError

if TYPE_CHECKING:
    from psycopg import AsyncConnection
    from psycopg.sql import Composable, Composed, Identifier


class Staging:
    """The staging table of one plan: temporary, of one session.

    Args:
        plan: What is written.
        params: Where to.
        number: Tells the staging tables of a session apart.
        vectors: The schema of pgvector.
    """

    def __init__(
        self, plan: Plan, params: PostgresSinkParams, number: int, vectors: str | None
    ) -> None:
        from psycopg import sql

        self._name = sql.Identifier("pg_temp", f"nvisy_staging_{number}")
        self._plan = plan
        columns = [
            sql.SQL("{} {}").format(_staged(place), type_sql(column.kind.staged, vectors))
            for place, column in enumerate(plan.columns)
        ]
        self.create = sql.SQL("CREATE TEMPORARY TABLE {} (r integer, {})").format(
            # A temporary table is named without its schema when it is made.
            sql.Identifier(f"nvisy_staging_{number}"),
            sql.SQL(", ").join(columns),
        )
        self._copy = sql.SQL("COPY {} FROM STDIN (FORMAT BINARY)").format(self._name)
        self._empty = sql.SQL("TRUNCATE {}").format(self._name)
        self._insert = _insert(plan, params, self._name, vectors)

    async def write(
        self, connection: "AsyncConnection[Any]", data: Sequence[memoryview | bytes], rows: int
    ) -> dict[int, str]:
        """Copy and merge; returns why rows were refused, by row.

        All or nothing but the refused rows: on an error nothing of it is left in the transaction.
        """
        await connection.execute("SAVEPOINT unit")
        try:
            async with connection.cursor() as cursor, cursor.copy(self._copy) as copy:
                for piece in data:
                    await copy.write(piece)
            refused: dict[int, str] = {}
            await self._merge_rows(connection, 0, rows, refused)
            await connection.execute(self._empty)
        except Exception:
            await _roll_back(connection)
            raise
        await connection.execute("RELEASE unit")
        return refused

    def _merge(self, start: int, stop: int) -> "Composed":
        from psycopg import sql

        before, after = self._insert
        # Not as parameters of the query: a `%` in a name would then be one too.
        rows = sql.SQL("r >= {} AND r < {}").format(sql.Literal(start), sql.Literal(stop))
        return sql.Composed([*before, *rows, *after])

    async def _merge_rows(
        self, connection: "AsyncConnection[Any]", start: int, stop: int, refused: dict[int, str]
    ) -> None:
        """Merge rows; those that the server refuses are found by halving."""
        import psycopg

        await connection.execute("SAVEPOINT part")
        try:
            await connection.execute(self._merge(start, stop))
        except psycopg.Error as error:
            if not isinstance(classify(error, ""), DataError):
                raise
            await connection.execute("ROLLBACK TO part")
            await connection.execute("RELEASE part")
            if stop - start == 1:
                refused[start] = told(error)
                return
            middle = (start + stop) // 2
            await self._merge_rows(connection, start, middle, refused)
            await self._merge_rows(connection, middle, stop, refused)
        else:
            await connection.execute("RELEASE part")


async def _roll_back(connection: "AsyncConnection[Any]") -> None:
    import psycopg

    # A session that is gone took its transaction with it.
    with suppress(psycopg.Error):
        if not connection.closed:
            await connection.execute("ROLLBACK TO unit")


def _insert(
    plan: Plan, params: PostgresSinkParams, staging: "Identifier", vectors: str | None
) -> "tuple[Composed, Composed]":
    """What stands before and behind the choice of rows in `INSERT ... SELECT ... ON CONFLICT`.

    Of several records with one key, the last one wins.
    """
    from psycopg import sql

    values = [_cast(place, column, plan, vectors) for place, column in enumerate(plan.columns)]
    into = sql.SQL("INSERT INTO {} ({})").format(
        sql.Identifier(params.schema, params.table),
        _listed(sql.Identifier(column.target) for column in plan.columns),
    )
    if params.mode == "append":
        chosen = sql.SQL(" SELECT {} FROM {} WHERE ").format(_listed(values), staging)
        return into + chosen, sql.Composed([sql.SQL(" ORDER BY r")])
    places = {column.target: place for place, column in enumerate(plan.columns)}
    keys = _listed(values[places[key]] for key in params.key)
    chosen = sql.SQL(" SELECT DISTINCT ON ({}) {} FROM {} WHERE ").format(
        keys, _listed(values), staging
    )
    others = [c.target for c in plan.columns if c.target not in params.key]
    # A row that is all key is written again too: `remove` must see that this epoch wrote it.
    updates = [
        sql.SQL("{0} = EXCLUDED.{0}").format(sql.Identifier(target))
        for target in others or params.key
    ]
    conflict = sql.SQL(" ORDER BY {}, r DESC ON CONFLICT ({}) DO UPDATE SET {}").format(
        # In the order of the key, so that two writers take their locks in the same order.
        keys,
        _listed(map(sql.Identifier, params.key)),
        _listed(updates),
    )
    return into + chosen, conflict


def _listed(parts: "Iterable[Composable]") -> "Composed":
    from psycopg import sql

    return sql.SQL(", ").join(parts)


def _cast(place: int, column: PlannedColumn, plan: Plan, vectors: str | None) -> "Composed":
    from psycopg import sql

    # `CAST` to the column's own type, its modifier included: an explicit cast to varchar(3) would
    # cut a text that an assignment refuses, so the modifier must not be in it.
    name = _without_length(plan.types[column.target])
    return sql.SQL("CAST({} AS {})").format(_staged(place), type_sql(name, vectors))


def _without_length(name: str) -> str:
    """`character varying(3)` -> `character varying`, `bit(3)[]` -> `bit[]`; times keep theirs."""
    for word in ("character varying", "character", "bpchar"):
        if name.startswith(f"{word}("):
            # `character` alone is `character(1)`; `bpchar` is the one without a length.
            return ("bpchar" if word == "character" else word) + name[name.index(")") + 1 :]
    return name


def _staged(place: int) -> "Identifier":
    from psycopg import sql

    return sql.Identifier(f"c{place}")
