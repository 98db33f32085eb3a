"""Which PostgreSQL type a column of Arrow becomes, and which existing types it fits."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from nvisy_connectors.sql.postgres.json_text import is_list, is_text
from nvisy_dagster.sdk.envelope import ENVELOPE

_UUID_FIELDS = frozenset({"_id", "_root_id", "_parent_ids"})
_JSON_FIELDS = frozenset({"_metadata"})
MOST_DIMENSIONS = 16_000
"""Of a `vector` of pgvector."""

TEXTS = frozenset({"text", "varchar", "bpchar", "citext"})
"""Types that take any text."""
_FITS: Mapping[str, frozenset[str]] = {
    "bool": frozenset({"bool"}),
    "int2": frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"}),
    "int4": frozenset({"int2", "int4", "int8", "numeric", "float8"}),
    "int8": frozenset({"int2", "int4", "int8", "numeric"}),
    "float4": frozenset({"float4", "float8", "numeric"}),
    "float8": frozenset({"float4", "float8", "numeric"}),
    "numeric": frozenset({"numeric"}),
    "text": TEXTS | {"json", "jsonb", "uuid"},
    "bytea": frozenset({"bytea"}),
    "date": frozenset({"date"}),
    "time": frozenset({"time"}),
    "timestamp": frozenset({"timestamp", "timestamptz"}),
    "timestamptz": frozenset({"timestamp", "timestamptz"}),
    "interval": frozenset({"interval"}),
    "uuid": frozenset({"uuid"}) | TEXTS,
    "jsonb": frozenset({"json", "jsonb"}),
    "json_text": frozenset({"json", "jsonb"}) | TEXTS,
    "vector": frozenset({"vector", "halfvec"}),
}
"""Kind -> types of columns that take it, each value whole or refused.

A whole number goes into no `real` that might round it; a fraction is rounded to a `real` or a
`numeric(p, s)`, as its owner chose."""

_SQL: Mapping[str, str] = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "time": "time without time zone",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "json_text": "jsonb",
}


@dataclass(frozen=True)
class ColumnKind:
    """What a column of Arrow is to PostgreSQL."""

    kind: str
    """How a value is encoded, see `binary_copy.py`; of an array, how its elements are."""
    array: bool = False
    dimension: int | None = None
    """Of a `vector`, or of a `real[]` that was one."""
    digits: tuple[int, int] | None = None
    """Precision and scale of a `numeric`."""

    @property
    def staged(self) -> str:
        """Type in the staging table; `{vectors}` stands for the schema of pgvector."""
        if self.kind == "vector":
            return f"{{vectors}}.vector({self.dimension})"
        # The digits of a number are read by the server: its binary form is hard to make.
        name = "text" if self.kind == "numeric" else self.kind
        return _SQL.get(name, name) + ("[]" if self.array else "")

    @property
    def created(self) -> str:
        """Type in a table that is made for it."""
        if self.kind == "numeric" and self.digits is not None:
            name = "numeric({}, {})".format(*self.digits)
            return name + ("[]" if self.array else "")
        return (
            "numeric[]"
            if self.kind == "numeric" and self.array
            else ("numeric" if self.kind == "numeric" else self.staged)
        )

    @property
    def shown(self) -> str:
        """`created`, for people."""
        return self.created.replace("{vectors}.", "")

    def fits(self, name: str, *, array: bool) -> bool:
        """Whether a column of this type, or of an array of it, takes the values."""
        if self.array and self.dimension is not None and not array:
            return name in {"vector", "halfvec"}
        return array == self.array and name in _FITS[self.kind]


def column_kind(  # noqa: C901, PLR0911 - one case per kind of type
    field: pa.Field, *, vectors: bool
) -> ColumnKind | None:
    """What a column becomes; `None` when there is no type for it.

    Args:
        field: The column.
        vectors: Whether the database has pgvector.
    """
    kind = _plain(field.type)
    if field.name in ENVELOPE.names and field.type.equals(ENVELOPE.field(field.name).type):
        if field.name in _UUID_FIELDS:
            return ColumnKind("uuid", array=is_list(kind))
        if field.name in _JSON_FIELDS:
            return ColumnKind("json_text")
    if isinstance(field.type, pa.UuidType):
        return ColumnKind("uuid")
    if isinstance(field.type, pa.JsonType):
        return ColumnKind("json_text")
    if pa.types.is_fixed_size_list(kind) and pa.types.is_float32(kind.value_type):
        dimension = kind.list_size
        if vectors and 0 < dimension <= MOST_DIMENSIONS:
            return ColumnKind("vector", dimension=dimension)
        return ColumnKind("float4", array=True, dimension=dimension)
    if is_list(kind):
        element = _scalar_kind(_plain(kind.value_type))
        if element is not None:
            return ColumnKind(element.kind, array=True, digits=element.digits)
        return ColumnKind("jsonb")
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        return ColumnKind("jsonb")
    return _scalar_kind(kind)


def _plain(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    return _plain(kind.value_type) if pa.types.is_dictionary(kind) else kind


def _scalar_kind(kind: pa.DataType) -> ColumnKind | None:
    types = pa.types
    if types.is_decimal(kind):
        # A scale below zero, or above the digits, is one that older servers do not know.
        usual = 0 <= kind.scale <= kind.precision
        return ColumnKind("numeric", digits=(kind.precision, kind.scale) if usual else None)
    if types.is_uint64(kind):
        return ColumnKind("numeric", digits=(20, 0))
    if types.is_timestamp(kind):
        return ColumnKind("timestamptz" if kind.tz else "timestamp")
    tests = (
        ("bool", types.is_boolean(kind)),
        ("int2", types.is_int8(kind) or types.is_int16(kind) or types.is_uint8(kind)),
        ("int4", types.is_int32(kind) or types.is_uint16(kind)),
        ("int8", types.is_int64(kind) or types.is_uint32(kind)),
        ("float4", types.is_float16(kind) or types.is_float32(kind)),
        ("float8", types.is_float64(kind)),
        ("text", is_text(kind) or types.is_null(kind)),
        ("bytea", types.is_binary(kind) or types.is_large_binary(kind)),
        ("bytea", types.is_fixed_size_binary(kind) or types.is_binary_view(kind)),
        ("date", types.is_date(kind)),
        ("time", types.is_time(kind)),
        ("interval", types.is_duration(kind)),
    )
    return next((ColumnKind(name) for name, holds in tests if holds), None)
