"""Records of one primitive made of those of another: each field of an expression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from nvisy_connectors.tabular.binding import Bound, bind, column_place, told
from nvisy_connectors.tabular.evaluation import evaluate, sound
from nvisy_connectors.tabular.expression import Expression, existing, nearest, parse_expression
from nvisy_connectors.tabular.vectors import as_vectors, vector_size
from nvisy_dagster.sdk import ConfigError, DataError, raise_mistakes
from nvisy_dagster.sdk.arrow_schema import Shape, columns_of, schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, payload_schema
from nvisy_dagster.sdk.validation import validate

_MESSAGES = "[{'role': 'user', 'content': prompt}, {'role': 'assistant', 'content': text}]"

_TAKEN: Mapping[tuple[str, str], Sequence[tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    ("document", "text"): (
        ("transcript", ("transcript",), ("data",)),
        ("caption", ("caption",), ("data",)),
        ("decode(data)", ("data",), ("data", "size", "encoding")),
    ),
    ("blob", "data"): (("encode(text)", ("text",), ("text",)),),
    ("blob", "size"): (
        ("octet_length(data)", ("data",), ()),
        ("strlen(text)", ("text",), ()),
    ),
    ("raw", "data"): (("encode(text)", ("text",), ("text",)),),
    ("raw", "encoding"): (("'utf-8'", ("text",), ()),),
    ("chunk", "index"): (("0", ("text",), ()),),
    ("fine_tune_sample", "messages"): ((_MESSAGES, ("prompt", "text"), ("prompt", "text")),),
}
"""What a field is made of when nobody says: expressions, the columns that must be there for each,
and those that are not carried on beside it. The first that fits is taken."""


@dataclass(frozen=True)
class _Made:
    """How one field comes about."""

    field: pa.Field
    place: int | None = None
    """Place of the column or of the result; nothing for a field that is NULL."""
    computed: bool = False


@dataclass(frozen=True)
class Reshaping:
    """How records with one schema become those of a primitive."""

    primitive: str
    made: tuple[_Made, ...]
    carried: tuple[int, ...]
    """Places of the columns that come along."""
    bound: Bound
    schema: pa.Schema
    """Of what comes out, with envelope."""
    dimensions: int | None

    def of(self, batch: pa.RecordBatch) -> tuple[pa.RecordBatch, dict[int, str]]:
        """The payload of the new records, and why rows fail.

        Returns:
            The rows that do not fail, and the reasons of the others by row of the batch.
        """
        evaluated = evaluate(self.bound, batch)
        failures = evaluated.failures
        arrays = [self._array(one, batch, evaluated.values, failures) for one in self.made]
        arrays += [batch.column(place) for place in self.carried]
        schema = payload_schema(self.schema)
        columns = pa.RecordBatch.from_arrays(arrays, names=schema.names)
        failures |= self._invalid(batch, columns, failures)
        if failures:
            columns = columns.filter(pa.array(sound(failures, batch.num_rows)))
        # Only now are there no NULLs left where there must be none.
        fitting = [
            array if array.type == field.type else array.cast(field.type)
            for array, field in zip(columns.columns, schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(fitting, schema=schema), failures

    def _array(
        self,
        made: _Made,
        batch: pa.RecordBatch,
        results: Sequence[pa.Array],
        failures: dict[int, str],
    ) -> pa.Array:
        if made.place is None:
            return pa.nulls(batch.num_rows, made.field.type)
        array = results[made.place] if made.computed else batch.column(made.place)
        if pa.types.is_fixed_size_list(made.field.type):
            vectors, wrong = as_vectors(array, made.field.type)
            failures |= {
                row: f"{made.field.name}: {reason}"
                for row, reason in wrong.items()
                if row not in failures
            }
            return vectors
        kind = _loose(made.field.type)
        return array if array.type == kind else array.cast(kind)

    def _invalid(
        self, batch: pa.RecordBatch, columns: pa.RecordBatch, failures: Mapping[int, str]
    ) -> dict[int, str]:
        """Why rows that did not fail yet are no records of the primitive."""
        rows = np.flatnonzero(sound(dict(failures), batch.num_rows))
        names = [one.field.name for one in self.made]
        envelope = batch.select(sorted(ENVELOPE_NAMES & set(batch.schema.names)))
        arrays = [*envelope.columns, *columns.select(names).columns]
        whole = pa.RecordBatch.from_arrays(arrays, names=[*envelope.schema.names, *names])
        try:
            validate(whole.take(pa.array(rows)), self.primitive, self.dimensions)
        except DataError as error:
            return {int(rows[row]): reason for row, reason in error.rows.items()}
        return {}


def check_fields(fields: Mapping[str, str], primitive: str) -> list[ConfigError]:
    """What is wrong with the fields of a primitive, whatever the schema."""
    errors: list[ConfigError] = []
    known = _payload_shapes(primitive)
    for name, text in fields.items():
        with told(errors):
            if name not in known:
                raise ConfigError(
                    f"a {primitive} has no field {name!r}",
                    remedy=nearest(name, list(known))
                    or (f"it has {', '.join(known)}" if known else 'add columns with a "map"'),
                    place=("fields", name),
                )
            parse_expression(f"fields.{name}", text, ("fields", name))
    return errors


def reshaping_of(
    primitive: str, fields: Mapping[str, str], dimensions: int | None, schema: pa.Schema
) -> Reshaping:
    """How records with this schema become those of a primitive.

    Raises:
        ConfigError: A field has nothing to be made of, or an expression does not fit.
    """
    return _reshaping(primitive, tuple(fields.items()), dimensions, schema)


@lru_cache(maxsize=256)
def _reshaping(
    primitive: str,
    fields: tuple[tuple[str, str], ...],
    dimensions: int | None,
    schema: pa.Schema,
) -> Reshaping:
    said = dict(fields)
    raise_mistakes(check_fields(said, primitive))
    errors: list[ConfigError] = []
    texts: dict[str, str | None] = {}
    consumed: set[str] = set()
    for name, shape in _payload_shapes(primitive).items():
        with told(errors):
            texts[name], taken = _text(primitive, name, shape, said, schema)
            consumed |= taken
    raise_mistakes(errors)
    parsed = {
        name: parse_expression(f"fields.{name}", text, ("fields", name))
        for name, text in texts.items()
        if text is not None
    }
    consumed |= {one.columns[0].name.lower() for one in parsed.values() if one.copies}
    size = _dimensions(primitive, parsed, dimensions, schema)
    wanted = schema_of(primitive, size)
    results: list[Expression] = []
    made: list[_Made] = []
    for name in _payload_shapes(primitive):
        with told(errors):
            made.append(_made(wanted.field(name), parsed.get(name), schema, results))
    raise_mistakes(errors)
    carried = tuple(
        place
        for place, field in enumerate(schema)
        if field.name not in ENVELOPE_NAMES
        and field.name not in wanted.names
        and field.name.lower() not in consumed
    )
    payload = [one.field for one in made] + [schema.field(place) for place in carried]
    envelope = [field for field in wanted if field.name in ENVELOPE_NAMES]
    return Reshaping(
        primitive,
        tuple(made),
        carried,
        bind(tuple(results), schema),
        pa.schema([*envelope, *payload]),
        size,
    )


def _text(
    primitive: str, name: str, shape: Shape, said: Mapping[str, str], schema: pa.Schema
) -> tuple[str | None, set[str]]:
    """The expression of a field, and the columns that are not carried on beside it."""
    if name in said:
        return said[name], set()
    if name in schema.names:
        return '"' + name + '"', set()
    for text, needs, takes in _TAKEN.get((primitive, name), ()):
        if set(needs) <= set(schema.names):
            return text, set(takes)
    if shape.nullable:
        return None, set()
    raise ConfigError(
        f"nothing says what {name!r} of a {primitive} is made of",
        remedy=f'say it in "fields", as an expression over the columns; {existing(schema.names)}',
        tag="schema",
        place=("fields",),
    )


def _made(
    field: pa.Field, expression: Expression | None, schema: pa.Schema, results: list[Expression]
) -> _Made:
    """How a field comes about; expressions that must be evaluated are added to `results`."""
    if expression is None:
        return _Made(field)
    kind = bind((expression,), schema).types[0]
    if expression.copies:
        place = column_place(expression, expression.columns[0], schema)
        if _fits(schema.field(place).type, field.type):
            return _Made(field, place)
    if not _fits(kind, field.type):
        expression = _cast(expression, kind, field)
        bind((expression,), schema)
    results.append(expression)
    return _Made(field, len(results) - 1, computed=True)


def _fits(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow makes one type of the other without loss."""
    if pa.types.is_fixed_size_list(wanted):
        return vector_size(kind) is not None or pa.types.is_list(kind)
    if pa.types.is_string(wanted):
        return pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if pa.types.is_large_binary(wanted):
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return kind == wanted


_SQL_TYPES = (
    (pa.types.is_string, "VARCHAR"),
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_int32, "INTEGER"),
    (pa.types.is_int64, "BIGINT"),
    (pa.types.is_float64, "DOUBLE"),
    (pa.types.is_timestamp, "TIMESTAMPTZ"),
    (pa.types.is_large_binary, "BLOB"),
    (pa.types.is_list, "STRUCT(role VARCHAR, content VARCHAR)[]"),
)


def _cast(expression: Expression, kind: pa.DataType, field: pa.Field) -> Expression:
    """The expression, cast to the type of its field; records whose value does not fit fail."""
    target = next((sql for test, sql in _SQL_TYPES if test(field.type)), None)
    misfit = pa.types.is_nested(kind) != pa.types.is_nested(field.type)
    text = f"(\n{expression.text}\n)"
    if pa.types.is_string(field.type) and pa.types.is_nested(kind):
        text, misfit = f"to_json{text}", False
    elif pa.types.is_list(field.type) and pa.types.is_string(kind):
        text, misfit = f"CAST({text} AS JSON)", False
    elif pa.types.is_large_binary(field.type):
        misfit = True
    if target is None or misfit:
        raise ConfigError(
            f"expression {expression.param!r}: it gives {kind}, and {field.name!r} is {field.type}",
            remedy="convert it, for instance with CAST, encode or to_json",
            tag="schema",
            place=expression.place,
        )
    return parse_expression(expression.param, f"CAST({text} AS {target})", expression.place)


def _dimensions(
    primitive: str,
    parsed: Mapping[str, Expression],
    dimensions: int | None,
    schema: pa.Schema,
) -> int | None:
    vectors = [name for name, shape in _payload_shapes(primitive).items() if shape.kind == "vector"]
    if not vectors:
        return None
    expression = parsed[vectors[0]]
    kind = bind((expression,), schema).types[0]
    if expression.copies:
        kind = schema.field(column_place(expression, expression.columns[0], schema)).type
    known = vector_size(kind)
    if known is None and dimensions is None:
        raise ConfigError(
            f"{vectors[0]!r} is made of {kind}, which does not say how many dimensions there are",
            remedy='say it with "dimensions"',
            tag="schema",
            place=("dimensions",),
        )
    if known is not None and dimensions not in {None, known}:
        raise ConfigError(
            f"{vectors[0]!r} has {known} dimensions, not {dimensions}",
            remedy='leave "dimensions" out',
            tag="schema",
            place=("dimensions",),
        )
    return known or dimensions


def _loose(kind: pa.DataType) -> pa.DataType:
    """The type with NULL allowed everywhere."""
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _loose(field.type)) for field in kind])
    return pa.list_(_loose(kind.value_type)) if pa.types.is_list(kind) else kind


def _payload_shapes(primitive: str) -> dict[str, Shape]:
    return {n: shape for n, shape in columns_of(primitive).items() if n not in ENVELOPE_NAMES}
