"""The order of records, as params say it."""

from collections.abc import Iterator, Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular.expression import nearest
from nvisy_connectors.tabular.keys import Keys, is_comparable
from nvisy_connectors.tabular.spilling import ROW
from nvisy_dagster.sdk import ConfigError, Params


class SortKey(Params):
    """One column that records are ordered by."""

    column: str = Field(examples=["created"])
    """Name of the column: numbers by size, NaN last; times by time; texts by the bytes of their
    UTF-8, so that capital letters come before small ones."""
    descending: bool = False
    """Greatest first."""
    nulls: Literal["first", "last"] = "last"
    """Where the records without a value go, whatever the direction."""


def sql_order(keys: Sequence[SortKey | str], given: Keys, *, reverse: bool = False) -> str:
    """What stands behind `ORDER BY`; of equal records the first comes first.

    Args:
        keys: By what records are ordered.
        given: These columns, as DuckDB is given them.
        reverse: Whether all is the other way round.
    """
    parts: list[str] = []
    for one in keys:
        key = SortKey(column=one) if isinstance(one, str) else one
        direction = "DESC" if key.descending != reverse else "ASC"
        nulls = "FIRST" if (key.nulls == "first") != reverse else "LAST"
        parts.append(f"{given.sql(key.column)} {direction} NULLS {nulls}")
    return ", ".join([*parts, f"{ROW} {'DESC' if reverse else 'ASC'}"])


def columns_of(keys: Sequence[SortKey | str]) -> list[str]:
    """The columns that keys name."""
    return [one if isinstance(one, str) else one.column for one in keys]


def wrong_columns(
    param: str, names: Sequence[str], schema: pa.Schema | None
) -> Iterator[ConfigError]:
    """Columns that are not there, or cannot be compared.

    Args:
        param: The param that names them.
        names: The columns.
        schema: What comes in, if that is known.
    """
    for at, name in enumerate(names):
        place = (param, at)
        if name in names[:at]:
            yield ConfigError(f"{name!r} is named twice", remedy="name it once", place=place)
        elif schema is not None and not schema.names.count(name):
            remedy = nearest(name, schema.names)
            yield ConfigError(f"there is no column {name!r}", remedy=remedy, place=place)
        elif schema is not None and not _is_ordered(kind := schema.field(name).type):
            yield ConfigError(
                f"{name!r} is of type {kind}, which has no order",
                remedy='make another type of it with "convert" or "map"',
                place=place,
            )


def _is_ordered(kind: pa.DataType) -> bool:
    return not pa.types.is_null(kind) and is_comparable(kind)
