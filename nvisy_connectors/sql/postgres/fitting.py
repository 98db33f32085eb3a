"""How records fit a table, or what table is made for them; pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa

from nvisy_connectors.sql.postgres.encoding import PlannedColumn
from nvisy_connectors.sql.postgres.params import LONGEST_NAME_BYTES, PostgresSinkParams
from nvisy_connectors.sql.postgres.table import Table, TableColumn
from nvisy_connectors.sql.postgres.types import TEXTS, column_kind
from nvisy_dagster.sdk import ConfigError, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

if TYPE_CHECKING:
    from psycopg.sql import Composed


@dataclass(frozen=True)
class Plan:
    """How records of one schema are written."""

    columns: Sequence[PlannedColumn]
    types: Mapping[str, str]
    """Column of the table -> its type as SQL, with `{vectors}` for the schema of pgvector."""


def targets(schema: pa.Schema, params: PostgresSinkParams) -> dict[str, str]:
    """Column of the records -> column of the table, before the table is known; pure.

    Raises:
        ConfigError: `columns` or `key` do not fit the records, or a name cannot be one.
    """
    mistakes = [
        _config(
            f"param 'columns' names {name!r}, which the records lack",
            f"they have {', '.join(schema.names)}",
        )
        for name in params.columns
        if name not in schema.names
    ]
    named = {name: params.columns.get(name, name) for name in schema.names}
    found = {name: target for name, target in named.items() if target is not None}
    for name, target in found.items():
        if len(target.encode()) > LONGEST_NAME_BYTES or "\0" in target or not target:
            mistakes.append(
                _config(
                    f"column {name!r} has no name that PostgreSQL could take",
                    "give it another with the param 'columns'",
                )
            )
        others = [other for other in found if found[other] == target]
        if others[0] != name:
            mistakes.append(
                _config(
                    f"columns {others[0]!r} and {name!r} both go to {target!r}",
                    "change the param 'columns'",
                )
            )
    if params.mode == "upsert":
        mistakes += [
            _config(
                f"param 'key' names {key!r}, which no column goes to",
                f"there are {', '.join(found.values())}",
            )
            for key in params.key
            if key not in found.values()
        ]
    raise_mistakes(mistakes)
    return found


def make_plan(
    schema: pa.Schema, params: PostgresSinkParams, table: Table | None, place: str, *, vectors: bool
) -> Plan:
    """How records of this schema are written to the table, or to one that is made for them; pure.

    Columns of the envelope that an existing table lacks are left out.

    Raises:
        ConfigError: Columns or types do not fit.
    """
    mistakes: list[ConfigError] = []
    planned: list[PlannedColumn] = []
    types: dict[str, str] = {}
    for name, target in targets(schema, params).items():
        field = schema.field(name)
        kind = column_kind(field, vectors=vectors)
        if kind is None:
            mistakes.append(
                _config(
                    f"column {name!r} is of type {field.type}, for which PostgreSQL has none",
                    "convert it before, or leave it out with the param 'columns'",
                )
            )
            continue
        required = params.mode == "upsert" and target in params.key
        column = PlannedColumn(name, target, kind, required)
        if table is None:
            types[target] = kind.created
        elif target in table.columns:
            column = _fitted(column, field, table.columns[target], place, mistakes)
            types[target] = table.columns[target].shown
        elif name in ENVELOPE_NAMES and not required:
            continue
        else:
            mistakes.append(
                _config(
                    f"{place} has no column {target!r}, for {name!r} of type {field.type}",
                    f"add it: ALTER TABLE ... ADD COLUMN {target} {kind.shown}; or leave it out "
                    f"with the param 'columns'",
                )
            )
        planned.append(column)
    if table is not None:
        mistakes += _missing(table, params, {c.target for c in planned}, place)
    raise_mistakes(mistakes)
    return Plan(planned, types)


def _fitted(
    column: PlannedColumn,
    field: pa.Field,
    found: TableColumn,
    place: str,
    mistakes: list[ConfigError],
) -> PlannedColumn:
    kind = column.kind
    if kind.kind == "vector" and found.array and found.type in {"float4", "float8", "numeric"}:
        kind = replace(kind, kind="float4", array=True)
    if kind.kind == "json_text" and found.type in TEXTS:
        kind = replace(kind, kind="text")
    fits = kind.fits(found.type, array=found.array) or (
        found.enum and kind.kind == "text" and kind.array == found.array
    )
    if found.computed:
        mistakes.append(
            _config(
                f"only the server gives values to column {column.target!r} of {place}",
                "leave it out with the param 'columns'",
            )
        )
    elif not fits:
        mistakes.append(
            _config(
                f"column {column.target!r} of {place} is of type {found.shown}, which does not "
                f"take {column.name!r} of type {field.type}",
                f"convert it with a `map` before, or change the column to {kind.shown}",
            )
        )
    elif found.type in {"vector", "halfvec"} and found.modifier not in {-1, kind.dimension}:
        mistakes.append(
            _config(
                f"column {column.target!r} of {place} is of type {found.shown}, but "
                f"{column.name!r} holds vectors of dimension {kind.dimension}",
                "use the model that the table was made for, or another table",
            )
        )
    return replace(column, kind=kind)


def _missing(
    table: Table, params: PostgresSinkParams, given: set[str], place: str
) -> list[ConfigError]:
    mistakes = [
        _config(
            f"column {name!r} of {place} needs a value, and the records have none",
            "give it a default, or map a column to it with the param 'columns'",
        )
        for name, column in table.columns.items()
        if column.demanded and name not in given
    ]
    if params.mode == "upsert" and frozenset(params.key) not in table.keys:
        keys = ", ".join(f'"{key}"' for key in params.key)
        mistakes.append(
            _config(
                f"{place} has no primary key or unique index over exactly {keys}, which an upsert "
                "needs",
                f"make one: CREATE UNIQUE INDEX ON ... ({keys}); or set the param 'key'",
            )
        )
    return mistakes


def create_statement(plan: Plan, params: PostgresSinkParams, vectors: str | None) -> "Composed":
    """The statement that makes the table."""
    from psycopg import sql

    lines = [
        sql.SQL("{} {}{}").format(
            sql.Identifier(column.target),
            type_sql(plan.types[column.target], vectors),
            sql.SQL(" NOT NULL" if column.target == "_id" else ""),
        )
        for column in plan.columns
    ]
    if params.mode == "upsert":
        keys = sql.SQL(", ").join(map(sql.Identifier, params.key))
        lines.append(sql.SQL("PRIMARY KEY ({})").format(keys))
    return sql.SQL("CREATE TABLE IF NOT EXISTS {} ({})").format(
        sql.Identifier(params.schema, params.table), sql.SQL(", ").join(lines)
    )


def type_sql(name: str, vectors: str | None) -> "Composed":
    """A type as SQL: our own word, or one that the server wrote."""
    from psycopg import sql

    head, marker, rest = name.partition("{vectors}.")
    if not marker:
        return sql.Composed([sql.SQL(name)])  # pyright: ignore[reportArgumentType] - from the server
    return sql.SQL("{}.").format(sql.Identifier(vectors or "")) + sql.SQL(head + rest)  # pyright: ignore[reportArgumentType] - ours


def _config(message: str, remedy: str) -> ConfigError:
    return ConfigError(message, remedy=remedy, tag="schema")
