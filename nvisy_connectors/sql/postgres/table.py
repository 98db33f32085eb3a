"""The table that is written: what the server says of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import ConfigError

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_RELATION = """
SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
# A column of a domain is judged by what the domain is made of.
_COLUMNS = """
SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
       e.typname, t.typcategory = 'A', e.typtype = 'e',
       a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
       a.attgenerated <> '' OR a.attidentity = 'a',
       a.atttypmod
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
JOIN pg_catalog.pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
JOIN pg_catalog.pg_type e
  ON e.oid = CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN t.typelem ELSE t.oid END
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
_KEYS = """
SELECT array_agg(a.attname::text) FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a
  ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indimmediate
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid
"""
_VECTORS = """
SELECT n.nspname FROM pg_catalog.pg_extension e
JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'vector'
"""


@dataclass(frozen=True)
class TableColumn:
    """A column of an existing table."""

    shown: str
    """Its type, as PostgreSQL writes it."""
    type: str
    """Name of the type, or of the type of its elements."""
    array: bool
    enum: bool
    demanded: bool
    """Whether a row needs a value for it."""
    computed: bool
    """Whether only the server gives it values."""
    modifier: int


@dataclass(frozen=True)
class Table:
    """An existing table."""

    columns: Mapping[str, TableColumn]
    keys: frozenset[frozenset[str]]
    """Sets of columns that an `ON CONFLICT` may name."""


async def find_vectors(connection: "AsyncConnection[Any]") -> str | None:
    """The schema in which pgvector is installed."""
    row = await (await connection.execute(_VECTORS)).fetchone()
    return row[0] if row else None


async def find_table(
    connection: "AsyncConnection[Any]", params: PostgresSinkParams, place: str
) -> Table | None:
    """The table, if there is one.

    Raises:
        ConfigError: There is something else of its name.
    """
    found = await connection.execute(_RELATION, [params.schema, params.table])
    row = await found.fetchone()
    if row is None:
        return None
    oid, relation = row
    if relation not in {"r", "p"}:
        raise ConfigError(
            f"{place} is no table, but a view or something of that kind",
            remedy="name the table behind it",
            tag="schema",
        )
    columns = await (await connection.execute(_COLUMNS, [oid])).fetchall()
    keys = await (await connection.execute(_KEYS, [oid])).fetchall()
    return Table(
        columns={name: TableColumn(*rest) for name, *rest in columns},
        keys=frozenset(frozenset(key) for (key,) in keys),
    )
