"""What the groups of an aggregation consist of: worked out before the run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.types as kinds

from nvisy_connectors.tabular.comparing import comparable, comparable_type
from nvisy_connectors.tabular.expression import existing, nearest
from nvisy_connectors.tabular.measures import FUNCTIONS, Measure, depends_on_order
from nvisy_connectors.tabular.spilling import RECORDS
from nvisy_connectors.tabular.widening import fit, plain_type
from nvisy_dagster.sdk import ConfigError, DataError, content_hashes, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES, with_envelope
from nvisy_dagster.sdk.identity import child_ids

if TYPE_CHECKING:
    from nvisy_connectors.tabular.aggregate import AggregateParams

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

CREATED = "_created_at"


@dataclass(frozen=True)
class Grouping:
    """The columns that an aggregation reads and makes."""

    by: Sequence[pa.Field]
    """The columns that make a group."""
    measures: Mapping[str, tuple[Measure, pa.Field]]
    """By name; each with the column that comes out."""
    columns: Mapping[str, pa.DataType]
    """The columns of which there are measures."""

    @property
    def payload(self) -> pa.Schema:
        """What comes out behind the envelope."""
        return pa.schema([*self.by, *(field for _, field in self.measures.values())])

    @property
    def in_order(self) -> bool:
        """Whether values must be added one after the other, for always the same result."""
        return any(
            measure.column is not None and depends_on_order(measure, self.columns[measure.column])
            for measure, _ in self.measures.values()
        )

    def read(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """What DuckDB is given of some records."""
        keys = [
            _with_one_zero(comparable(batch.column(field.name), field.type)) for field in self.by
        ]
        values = [_given(batch.column(name), kind) for name, kind in self.columns.items()]
        names = [*_numbered("key", keys), *_numbered("value", values), CREATED]
        created = batch.column(CREATED).cast(pa.int64())
        return pa.RecordBatch.from_arrays([*keys, *values, created], names=names)

    def query(self) -> str:
        """The query that makes a row of each group, in the order of the groups.

        Nothing of the params is in it: columns have other names here.
        """
        keys = _numbered("key", self.by)
        places = dict(zip(self.columns, _numbered("value", list(self.columns)), strict=True))
        parts = [
            FUNCTIONS[measure.function].sql.format(
                "*" if measure.column is None else places[measure.column]
            )
            for measure, _ in self.measures.values()
        ]
        selected = ", ".join([*keys, f"max({CREATED})", *parts])
        group = f"GROUP BY {', '.join(keys)}" if keys else "HAVING count(*) > 0"
        order = ", ".join(f"{key} NULLS LAST" for key in keys)
        return (
            f"SELECT {selected} FROM {RECORDS} {group} "  # noqa: S608
            f"{f'ORDER BY {order}' if order else ''}"
        )

    def made(self, rows: pa.RecordBatch, node_id: str) -> pa.RecordBatch:
        """The records of some groups.

        Raises:
            DataError: A sum is too large for its type.
        """
        keys = [fit(rows.column(place), field.type) for place, field in enumerate(self.by)]
        created = rows.column(len(keys)).cast(ENVELOPE.field(CREATED).type)
        values: list[pa.Array] = []
        for place, (name, (measure, field)) in enumerate(self.measures.items(), len(keys) + 1):
            try:
                values.append(fit(rows.column(place), field.type))
            except pa.ArrowInvalid as error:
                raise too_large(name, measure, field.type) from error
        columns = pa.RecordBatch.from_arrays([*keys, *values], schema=self.payload)
        hashes = content_hashes(columns.select([field.name for field in self.by]))
        digests = np.frombuffer(hashes.buffers()[1] or b"", np.uint8).reshape(-1, 32)
        half = pa.py_buffer(np.ascontiguousarray(digests[:, :16]))
        names = pa.Array.from_buffers(pa.binary(16), rows.num_rows, [None, half])
        ids = child_ids(names, node_id, np.zeros(rows.num_rows, np.int64))
        nowhere = pa.nulls(rows.num_rows, pa.string())
        batch = with_envelope(columns, ids=ids, uri=nowhere, created_at=created)
        place = batch.schema.get_field_index("_source")
        nothing = pa.nulls(rows.num_rows, ENVELOPE.field("_source").type)
        return batch.set_column(place, ENVELOPE.field("_source"), nothing)


def grouping_of(params: "AggregateParams", schema: pa.Schema) -> Grouping:
    """What an aggregation makes of a schema.

    Raises:
        ConfigError: A column is not there, or cannot be grouped or measured.
    """
    errors: list[ConfigError] = []
    errors += _wrong_groups(params.by, schema)
    measures: dict[str, tuple[Measure, pa.Field]] = {}
    columns: dict[str, pa.DataType] = {}
    for name, measure in params.measures.items():
        function = FUNCTIONS[measure.function]
        kind = pa.int64()
        if measure.column is not None:
            try:
                kind = plain_type(_field(measure.column, schema, ("measures", name, "column")).type)
            except ConfigError as error:
                errors.append(error)
                continue
            columns[measure.column] = kind
        result = function.result(kind)
        if result is None:
            errors.append(
                ConfigError(
                    f"{measure.column!r} is of type {kind}: {measure.function!r} takes "
                    f"{function.takes}",
                    remedy='make another type of it with "convert" or "map"',
                    tag="schema",
                    place=("measures", name, "column"),
                )
            )
        else:
            measures[name] = (measure, pa.field(name, result, nullable=function.nullable))
    raise_mistakes(errors)
    by = [field.with_type(plain_type(field.type)) for field in map(schema.field, params.by)]
    return Grouping(by, measures, columns)


def too_large(name: str, measure: Measure, kind: pa.DataType) -> DataError:
    """A result does not fit its type."""
    return DataError(
        f"measure {name!r}: the {measure.function} of {measure.column!r} does not fit {kind}",
        rows={},
        remedy='make a DECIMAL of the column with "convert" before',
    )


def _wrong_groups(by: Sequence[str], schema: pa.Schema) -> Iterator[ConfigError]:
    for place, name in enumerate(by):
        try:
            kind = _field(name, schema, ("by", place)).type
        except ConfigError as error:
            yield error
            continue
        if name in ENVELOPE_NAMES:
            yield ConfigError(
                f"{name!r} is a column of the envelope, which is made anew",
                remedy='copy it with a "map" before',
                tag="schema",
                place=("by", place),
            )
        elif comparable_type(plain_type(kind)) is None:
            yield ConfigError(
                f"{name!r} is of type {kind}: what has no value of its own makes no group",
                remedy='make another type of it with "convert" or "map"',
                tag="schema",
                place=("by", place),
            )


def _field(name: str, schema: pa.Schema, place: Sequence[str | int]) -> pa.Field:
    if name not in schema.names:
        raise ConfigError(
            f"there is no column {name!r}",
            remedy=nearest(name, schema.names) or existing(schema.names),
            tag="schema",
            place=place,
        )
    return schema.field(name)


def _given(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values as DuckDB takes them; of those that it cannot take, only whether they are there."""
    if comparable_type(kind) is not None:
        return comparable(array, kind)
    return pc.if_else(array.is_valid(), pa.scalar(value=True), pa.scalar(None, pa.bool_()))


def _with_one_zero(array: pa.Array) -> pa.Array:
    """Equal values make one group, which shows one of them: never minus zero."""
    if not kinds.is_floating(array.type):
        return array
    return pc.add(array, pa.scalar(0.0, array.type))


def _numbered(word: str, some: Sequence[Any]) -> list[str]:
    return [f"{word}{place}" for place in range(len(some))]
