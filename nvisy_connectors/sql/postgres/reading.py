"""Which type of Arrow a column of PostgreSQL becomes, and how it is fetched; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from psycopg.sql import Composable

TEXT = pa.string()

ARROW_TYPES: Mapping[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.int64(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "text": TEXT,
    "jsonb": TEXT,
    "bytea": pa.binary(),
    "uuid": pa.uuid(),
    "date": pa.date32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
}
"""Kind of a value in the binary format -> what it becomes."""

_KINDS: Mapping[str, str] = {
    **{name: name for name in ARROW_TYPES},
    # Their binary form is their text.
    **dict.fromkeys(("varchar", "bpchar", "citext", "name", "json", "xml"), "text"),
}
_MOST_DIGITS = 76
_DECIMAL128_DIGITS = 38


@dataclass(frozen=True)
class ReadColumn:
    """A column that is read."""

    name: str
    shown: str
    """Its type, as PostgreSQL writes it."""
    decoder: str
    """How a value is decoded, see `binary_read.py`; of an array, how its elements are."""
    type: pa.DataType
    """What a value becomes; of an array, what an element does."""
    cast: str | None = None
    """Type to which the server casts it, as SQL."""
    array: bool = False
    dimension: int | None = None
    """Of a vector."""
    nullable: bool = True

    @property
    def field(self) -> pa.Field:
        """The column of the records."""
        kind = self.type
        if self.dimension is not None:
            kind = pa.list_(self.type, self.dimension)
        elif self.array:
            kind = pa.list_(self.type)
        return pa.field(self.name, kind, nullable=self.nullable)

    @property
    def whole_number(self) -> bool:
        """Whether its values are whole numbers."""
        return not self.array and self.decoder in {"int2", "int4", "int8"}

    def selected(self) -> "Composable":
        """What the query fetches for it."""
        from psycopg import sql

        name = sql.Identifier(self.name)
        return (
            name if self.cast is None else sql.SQL("CAST({} AS {})").format(name, _sql(self.cast))
        )

    def as_text(self) -> "Composable":
        """Its text, of which an id or a condition can be made."""
        from psycopg import sql

        return sql.SQL("CAST({} AS text)").format(sql.Identifier(self.name))


def read_column(  # noqa: PLR0913, PLR0917 - a row of the catalogue
    name: str,
    kind: str,
    modifier: int,
    element: str | None,
    required: bool,  # noqa: FBT001 - as the row has it
    shown: str,
) -> ReadColumn:
    """How a column is read.

    Args:
        name: Its name.
        kind: Name of its type; of a domain, of what the domain is made of.
        modifier: Precision, length or dimension, as the catalogue has it.
        element: Name of the type of the elements of an array.
        required: Whether it is never null.
        shown: Its type, for people.
    """
    nullable = not required
    if kind in {"vector", "halfvec"}:
        dimension = modifier if modifier > 0 else None
        return ReadColumn(
            name,
            shown,
            "float4",
            # The elements of a vector cannot be null.
            pa.float32(),
            cast="real[]",
            array=True,
            dimension=dimension,
            nullable=nullable,
        )
    if element is None:
        decoder, cast, arrow = _scalar(kind, modifier)
        return ReadColumn(name, shown, decoder, arrow, cast, nullable=nullable)
    decoder, cast, arrow = _scalar(element, modifier)
    cast = None if cast is None else f"{cast}[]"
    return ReadColumn(name, shown, decoder, arrow, cast, array=True, nullable=nullable)


def _scalar(kind: str, modifier: int) -> tuple[str, str | None, pa.DataType]:
    """Decoder, cast and type."""
    if kind == "numeric":
        return "decimal", "text", _decimal(modifier)
    known = _KINDS.get(kind)
    # Whatever else there is, as its text: enums, ranges, addresses, composites, intervals.
    return ("text", "text", TEXT) if known is None else (known, None, ARROW_TYPES[known])


def _decimal(modifier: int) -> pa.DataType:
    """A decimal of the declared digits; text for a number that may have any."""
    if modifier < 0:
        return TEXT
    precision = (modifier - 4) >> 16 & 0xFFFF
    scale = ((modifier - 4 & 0x7FF) ^ 1024) - 1024
    if not 0 <= scale <= precision <= _MOST_DIGITS:
        return TEXT
    if precision <= _DECIMAL128_DIGITS:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale)


def _sql(name: str) -> "Composable":
    from psycopg import sql

    return sql.SQL(name)  # pyright: ignore[reportArgumentType] - one of our own words
