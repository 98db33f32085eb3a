"""The table that is read: what the server says of it, and what to select of it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nvisy_connectors.sql.postgres.reading import ReadColumn, read_column
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_dagster.sdk import ConfigError, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

if TYPE_CHECKING:
    from psycopg import AsyncConnection

_RELATION = """
SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
_NEIGHBOURS = """
SELECT c.relname FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""
# A column of a domain is read as what the domain is made of.
_COLUMNS = """
SELECT a.attname, t.typname,
       CASE WHEN d.typtype = 'd' THEN d.typtypmod ELSE a.atttypmod END,
       CASE WHEN t.typcategory = 'A' AND t.typelem <> 0 THEN e.typname END,
       a.attnotnull, pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.pg_attribute a
JOIN pg_catalog.pg_type d ON d.oid = a.atttypid
JOIN pg_catalog.pg_type t ON t.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
LEFT JOIN pg_catalog.pg_type e ON e.oid = t.typelem
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""
# The primary key first; a unique index over columns that may be null tells no rows apart.
_KEYS = """
SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum)),
       bool_and(a.attnotnull), i.indisprimary
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_attribute a
  ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1])
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid
  AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indisprimary
ORDER BY i.indisprimary DESC, count(*), i.indexrelid
"""


@dataclass(frozen=True)
class SourceTable:
    """What is read of a table, and in which order."""

    columns: Sequence[ReadColumn]
    """Of the payload."""
    key: Sequence[ReadColumn]
    certain: bool
    """Whether an index holds that the key is never null and never there twice."""
    cursor: ReadColumn | None
    """The cursor column."""


async def describe(
    connection: "AsyncConnection[Any]", params: PostgresSourceParams, place: str
) -> SourceTable:
    """The table.

    Raises:
        ConfigError: There is no such table or column, or nothing tells its rows apart.
    """
    row = await (await connection.execute(_RELATION, [params.schema, params.table])).fetchone()
    if row is None:
        raise await _no_table(connection, params, place)
    rows = await (await connection.execute(_COLUMNS, [row[0]])).fetchall()
    found = {column[0]: read_column(*column) for column in rows}
    keys = await (await connection.execute(_KEYS, [row[0]])).fetchall()
    chosen = params.columns or [name for name in found if name not in ENVELOPE_NAMES]
    named = {
        "columns": params.columns or (),
        "key": params.key or (),
        "cursor_column": (params.cursor_column,) if params.cursor_column else (),
    }
    raise_mistakes([
        _no_column(param, name, found, place)
        for param, names in named.items()
        for name in names
        if name not in found
    ])
    raise_mistakes([
        ConfigError(
            f"param 'columns' names {name!r}, which is reserved for the record's envelope",
            remedy="leave it out, or read a view that gives it another name",
            tag="schema",
        )
        for name in chosen
        if name in ENVELOPE_NAMES
    ])
    key, certain = _key(params, keys, place)
    cursor = found[params.cursor_column] if params.cursor_column else None
    if cursor is not None and cursor.decoder not in CURSOR_KINDS:
        raise ConfigError(
            f"param 'cursor_column' names {cursor.name!r} of type {cursor.shown}, which has no "
            "values to go on from",
            remedy="name a column of a time, a date or a whole number",
            tag="schema",
        )
    return SourceTable([found[n] for n in chosen], [found[n] for n in key], certain, cursor)


CURSOR_KINDS = frozenset({"int2", "int4", "int8", "timestamp", "timestamptz", "date"})
"""Kinds of columns that a run can go on from."""


def _key(
    params: PostgresSourceParams, keys: Sequence[Any], place: str
) -> tuple[Sequence[str], bool]:
    if params.key is not None:
        certain = any(not_null and set(names) <= set(params.key) for names, not_null, _ in keys)
        return params.key, certain
    usable = [names for names, not_null, _ in keys if not_null]
    if not usable:
        raise ConfigError(
            f"nothing tells the rows of {place} apart: it has no primary key, and no unique index "
            "over columns that are never null. A read that stops could not go on where it stopped, "
            "and records would be lost or doubled",
            remedy="name columns that do with the param 'key' (an index over them makes the read "
            "fast), or add a primary key",
            tag="schema",
        )
    return usable[0], True


async def _no_table(
    connection: "AsyncConnection[Any]", params: PostgresSourceParams, place: str
) -> ConfigError:
    found = await (await connection.execute(_NEIGHBOURS, [params.schema])).fetchall()
    near = difflib.get_close_matches(params.table, [name for (name,) in found], n=1)
    remedy = f"did you mean {near[0]!r}?" if near else "check the params 'table' and 'schema'"
    if "." in params.table:
        schema, _, table = params.table.partition(".")
        remedy = f'give the schema by itself: "schema": "{schema}", "table": "{table}"'
    return ConfigError(f"there is no table {place}", remedy=remedy, tag="not_found")


def _no_column(param: str, name: str, found: Any, place: str) -> ConfigError:  # noqa: ANN401
    near = difflib.get_close_matches(name, list(found), n=1)
    return ConfigError(
        f"param '{param}' names {name!r}, which {place} lacks",
        remedy=f"did you mean {near[0]!r}?" if near else f"it has {', '.join(found)}",
        tag="not_found",
        place=(param,),
    )
