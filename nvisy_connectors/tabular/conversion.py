"""Columns of one type made into columns of another, each with its own policy for what fails."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular.binding import Bound, bind, told
from nvisy_connectors.tabular.database import error_details, select
from nvisy_connectors.tabular.evaluation import evaluate
from nvisy_connectors.tabular.expression import Expression, existing, nearest, parse_expression
from nvisy_connectors.tabular.fractions import fractions, is_text, without
from nvisy_connectors.tabular.overflows import overflows
from nvisy_connectors.tabular.syntax import parse_one
from nvisy_dagster.sdk import ConfigError, NvisyError, Params, raise_mistakes
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES

_PLACE = re.compile(r" \(at character \d+\)$")

TypeName = Annotated[str, Field(min_length=1, max_length=500)]
OnError = Literal["reject", "null", "fail"]


class Conversion(Params):
    """A column's new type, and what happens to values that do not fit it."""

    type: TypeName
    """Type, as in SQL's `CAST`: `INTEGER`, `DECIMAL(10, 2)`, `TIMESTAMP`, `VARCHAR[]`."""
    format: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    """How dates and times are written, as `strptime` has it: `%d.%m.%Y`. For texts that become
    `DATE` or `TIMESTAMP`, and for those that become text."""
    on_error: OnError = "reject"
    """What becomes of a value that does not fit. `reject`: its record fails, and `on_error` of the
    node says what becomes of it. `null`: it is NULL from here on. `fail`: the run ends, whatever
    the node says."""


@dataclass(frozen=True)
class _Cast:
    """A column that gets another type."""

    place: int
    name: str
    expression: Expression
    on_error: OnError

    @property
    def begin(self) -> str:
        """What its reasons begin with."""
        return f"column {self.name!r}: "


@dataclass(frozen=True)
class Casts:
    """The conversions that fit a schema."""

    schema: pa.Schema
    """What comes out."""
    casts: tuple[_Cast, ...]
    """Of columns that have another type already."""
    bound: Bound | None

    def of(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The batch with its new columns, and why rows fail; those rows mean nothing.

        Raises:
            NvisyError: A value fails of a column that says `fail`.
        """
        if self.bound is None:
            return batch, {}
        evaluated = evaluate(self.bound, batch)
        failures = {row: self._said(reason) for row, reason in evaluated.failures.items()}
        arrays = list(batch.columns)
        # Backwards: of several columns that fail on a row the first is told.
        for one, values in reversed(list(zip(self.casts, evaluated.values, strict=True))):
            column = batch.column(one.place)
            lost = fractions(column, values.type) | overflows(column, values)
            arrays[one.place] = without(values, lost) if one.on_error == "null" else values
            if one.on_error != "null":
                failures |= {row: one.begin + reason for row, reason in lost.items()}
        self._end_run(failures)
        schema = self.schema
        if failures:
            kinds = [field.with_nullable(nullable=True) for field in schema]
            schema = pa.schema(kinds, metadata=schema.metadata)
        return pa.RecordBatch.from_arrays(arrays, schema=schema), failures

    def _said(self, reason: str) -> str:
        """A reason of an expression as one of its column."""
        for one in self.casts:
            written = f"expression {one.expression.param!r}: "
            if reason.startswith(written):
                return one.begin + reason.removeprefix(written)
        return reason

    def _end_run(self, failures: Mapping[int, str]) -> None:
        for one in self.casts:
            if one.on_error != "fail":
                continue
            reason = next((said for said in failures.values() if said.startswith(one.begin)), None)
            if reason is not None:
                raise NvisyError(
                    reason,
                    remedy=f'correct the data, or set "on_error" of {one.name!r} to "null" or '
                    '"reject"',
                    tag="validation",
                )


def check_types(columns: Mapping[str, Conversion]) -> list[ConfigError]:
    """What is wrong with conversions, whatever the schema."""
    errors: list[ConfigError] = []
    for name, conversion in columns.items():
        with told(errors):
            _typed(name, conversion.type)
    return errors


def casts_of(columns: Mapping[str, Conversion], schema: pa.Schema) -> Casts:
    """The conversions of the columns of a schema.

    Raises:
        ConfigError: A column does not exist, or there is no way from its type to the new one.
    """
    return _casts(tuple(columns.items()), schema)


@lru_cache(maxsize=256)
def _casts(columns: tuple[tuple[str, Conversion], ...], schema: pa.Schema) -> Casts:
    errors: list[ConfigError] = []
    casts: list[_Cast] = []
    fields = list(schema)
    for name, conversion in columns:
        with told(errors):
            place = _place(name, schema)
            kind = _typed(name, conversion.type)
            before = schema.field(place)
            if kind.equals(before.type):
                continue
            text = _expression(name, conversion, before.type, kind)
            if pa.types.is_nested(before.type) and not (pa.types.is_nested(kind) or is_text(kind)):
                raise ConfigError(
                    f"column {name!r}: no {kind} can be made of {before.type}",
                    remedy='take a part of it, in the "set" of a "map"',
                    tag="schema",
                    place=("columns", name),
                )
            expression = parse_expression(f"columns.{name}", text, ("columns", name))
            bound = _bound(expression, schema)
            _try_out(name, bound, before.type)
            [made] = bound.types
            keeps = conversion.on_error != "null"
            fields[place] = pa.field(name, made, nullable=before.nullable or not keeps)
            casts.append(_Cast(place, name, expression, conversion.on_error))
    raise_mistakes(errors)
    # Of several columns that fail on a row the first is told: one that ends the run goes first.
    casts.sort(key=lambda one: one.on_error != "fail")
    bound = bind(tuple(one.expression for one in casts), schema) if casts else None
    return Casts(pa.schema(fields, metadata=schema.metadata), tuple(casts), bound)


def _place(name: str, schema: pa.Schema) -> int:
    if name in schema.names:
        return schema.names.index(name)
    raise ConfigError(
        f"'columns' names column {name!r}, which is not there",
        remedy=nearest(name, schema.names)
        or existing([known for known in schema.names if known not in ENVELOPE_NAMES]),
        tag="schema",
        place=("columns", name),
    )


def _bound(expression: Expression, schema: pa.Schema) -> Bound:
    try:
        return bind((expression,), schema)
    except ConfigError as error:
        raise _about_column(expression.place[-1], error) from error


_TRIED: Sequence[tuple[Any, pa.DataType]] = (
    (1, pa.int8()),
    (1, pa.float32()),
    (True, pa.bool_()),
    (b"1", pa.binary()),
    (1, pa.date32()),
    (1, pa.time64("us")),
    (1, pa.timestamp("us")),
    (1, pa.timestamp("us", "UTC")),
)
"""Values of one type each that others can be made of."""


def _try_out(name: str, bound: Bound, before: pa.DataType) -> None:
    """Refuse a cast that DuckDB has none for, which it tells only when there is a value.

    Raises:
        ConfigError: No value of the column's type can be cast.
    """
    import duckdb

    value = next(
        (made for value, kind in _TRIED if (made := _value(value, kind, before)) is not None), None
    )
    if value is None or not bound.columns:
        return
    records = bound.inputs(pa.record_batch([value], names=list(bound.columns)))
    try:
        select(bound.selected[0], records)
    except duckdb.Error as error:
        said = error_details(error)["exception_message"].splitlines()[0]
        if said.startswith("Unimplemented"):
            raise ConfigError(
                f"column {name!r}: {said.partition(' when casting')[0]}",
                remedy='make it with an expression, in the "set" of a "map"',
                tag="schema",
                place=("columns", name),
            ) from error


def _value(value: object, kind: pa.DataType, before: pa.DataType) -> pa.Array | None:
    """A value of a type, if it is one of those of the same family."""
    family = next(
        test
        for test in (
            pa.types.is_boolean,
            pa.types.is_integer,
            pa.types.is_floating,
            pa.types.is_date,
            pa.types.is_time,
            pa.types.is_timestamp,
            _is_bytes,
        )
        if test(kind)
    )
    if pa.types.is_fixed_size_binary(before):
        return pa.array([b"1" * before.byte_width], before)
    return pa.array([value], kind).cast(before) if family(before) else None


def _about_column(name: str | int, error: ConfigError) -> ConfigError:
    """The error without places in an expression that the author did not write."""
    message = _PLACE.sub("", error.message.partition(": ")[2])
    return ConfigError(
        f"column {name!r}: {message}",
        remedy=error.remedy,
        tag="schema",
        place=("columns", str(name)),
    )


@lru_cache(maxsize=1024)
def _typed(name: str, text: str) -> pa.DataType:
    """The Arrow type that a type's name stands for."""
    remedy = "name a type of SQL, such as INTEGER, DOUBLE, DATE or VARCHAR"
    try:
        expression = parse_expression(f"columns.{name}", f"CAST(NULL AS {text})")
        tree = parse_one(expression.text)
        if tree["class"] == "CAST" and tree["child"]["class"] == "CONSTANT":
            return bind((expression,), pa.schema([])).types[0]
        message = f"column {name!r}: {text!r} is no type"
    except ConfigError as error:
        refused = _about_column(name, error)
        message, remedy = refused.message, refused.remedy or remedy
    raise ConfigError(message, remedy=remedy, tag="schema", place=("columns", name))


def _expression(name: str, conversion: Conversion, before: pa.DataType, after: pa.DataType) -> str:
    """SQL that makes the column."""
    column = '"' + name.replace('"', '""') + '"'
    if conversion.format is not None:
        made = _written(name, column, conversion, before, after)
    else:
        inner = _inner(column, before, after)
        if inner == column and conversion.on_error == "null":
            return f"TRY_CAST({column} AS {conversion.type})"
        made = f"CAST({inner} AS {conversion.type})"
    return f"TRY({made})" if conversion.on_error == "null" else made


def _inner(column: str, before: pa.DataType, after: pa.DataType) -> str:
    """What is cast: texts are read as JSON where they become nested, and the other way round."""
    if is_text(before) and pa.types.is_nested(after):
        return f"CAST({column} AS JSON)"
    if pa.types.is_nested(before) and is_text(after):
        return f"to_json({column})"
    if _is_bytes(before) and is_text(after):
        return f"decode({column})"
    if is_text(before) and _is_bytes(after):
        return f"encode({column})"
    return column


def _written(
    name: str, column: str, conversion: Conversion, before: pa.DataType, after: pa.DataType
) -> str:
    literal = "'" + str(conversion.format).replace("'", "''") + "'"
    if is_text(before) and pa.types.is_temporal(after):
        return f"CAST(strptime({column}, {literal}) AS {conversion.type})"
    if pa.types.is_temporal(before) and is_text(after):
        return f"CAST(strftime({column}, {literal}) AS {conversion.type})"
    raise ConfigError(
        f"column {name!r}: 'format' says how dates and times are written, but {before} becomes "
        f"{after}",
        remedy="leave it out",
        place=("columns", name, "format"),
    )


def _is_bytes(kind: pa.DataType) -> bool:
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(test(kind) for test in tests)
