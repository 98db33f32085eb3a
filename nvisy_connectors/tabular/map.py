"""The action `map`."""

from collections.abc import Sequence
from typing import Annotated, Self

import pyarrow as pa
from pydantic import Field, model_validator

from nvisy_connectors.tabular import bulk
from nvisy_connectors.tabular.binding import told
from nvisy_connectors.tabular.evaluation import evaluate, refusal, sound
from nvisy_connectors.tabular.expression import Expression, parse_expressions, reads
from nvisy_connectors.tabular.projection import (
    NULL_REMEDY,
    compute,
    not_null_failures,
    project,
    schema_of_columns,
    unknown_results,
)
from nvisy_connectors.tabular.syntax import MAX_CHARACTERS
from nvisy_dagster.sdk import (
    Capabilities,
    ConfigError,
    EdgeType,
    KernelAction,
    Params,
    raise_mistakes,
)
from nvisy_dagster.sdk.arrow_schema import columns_of
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.push_down import Wanted

ColumnName = Annotated[str, Field(min_length=1, max_length=255)]
ExpressionText = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]


class MapParams(Params):
    """What `map` makes of the columns of a record; at least one of these, applied in this order."""

    set: Annotated[dict[ColumnName, ExpressionText], Field(max_length=500)] = Field(
        default_factory=dict, examples=[{"text": "lower(text)", "length": "length(text)"}]
    )
    """Columns to add or replace, each with a SQL expression over the columns that came in.

    For instance `{"text": "lower(text)", "length": "length(text)"}`: `length` is that of the text
    that came in. A column of JSON text is read with paths: `payload ->> '$.customer.name'` is text,
    `(payload ->> '$.items[*].price')::DOUBLE[]` a list; a struct with a dot: `customer.name`.
    Columns of the envelope, such as `_source`, can be read and not written.
    """
    select: tuple[ColumnName, ...] | None = None
    """Columns to keep, in this order; all when left out. The envelope is always kept."""
    drop: tuple[ColumnName, ...] = ()
    """Columns to leave out."""
    rename: dict[ColumnName, ColumnName] = Field(default_factory=dict)
    """New names of columns, by their names until then."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not (self.set or self.drop or self.rename or self.select is not None):
            raise ValueError("name at least one of set, select, drop and rename")
        folded = {name.lower() for name in ENVELOPE_NAMES}
        written = [*self.set, *(self.select or ()), *self.drop, *self.rename, *self.rename.values()]
        for name in written:
            if name.lower() in folded:
                raise ValueError(f"{name!r} belongs to the envelope, which is kept as it is")
        return self


class Map(KernelAction[MapParams]):
    """Compute, select, drop and rename columns.

    Records keep their ids. A column that came in as not null stays so: a record whose new value is
    NULL fails. When a column that the primitive requires is dropped, renamed or changes its type,
    the records are of the primitive `row` from here on.
    """

    name = "map"
    capabilities = Capabilities(row_wise=True, concurrency=2)
    requires = ("duckdb",)
    extra = "tabular"

    @classmethod
    def prepare(cls, params: Sequence[MapParams]) -> None:
        """Parse the expressions of all nodes together."""
        bulk.prepare(cls.name, (text for one in params for text in one.set.values()))

    def output(self, incoming: EdgeType) -> EdgeType:
        """The columns that come out and the primitive that they still are.

        Raises:
            ConfigError: An expression is not allowed or does not fit, or a column does not exist.
        """
        expressions, errors = self._expressions()
        if incoming.schema is None:
            raise_mistakes(errors)
            return EdgeType(self._primitive_by_name(incoming.primitive))
        results = unknown_results(self.params.set)
        with told(errors):
            results |= compute(expressions, incoming.schema).results
        with told(errors):
            columns = project(self.params, incoming.schema, results)
        raise_mistakes(errors)
        schema = schema_of_columns(columns, incoming.schema)
        return EdgeType(_primitive(incoming.primitive, incoming.schema, schema), schema)

    def wanted(self) -> Wanted:
        """With `select`, the columns that it names and those that expressions read."""
        params = self.params
        named = {*(params.select or ()), *params.drop, *params.rename} - params.set.keys()
        read = {name for text in params.set.values() for name in reads(text) or ()}
        return Wanted(
            frozenset(named | read),
            replaces=frozenset(params.set),
            passes=params.select is None,
            renames=bool(params.rename),
            fails=bool(params.set),
        )

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Compute the columns of a batch.

        Raises:
            ConfigError: The params do not fit the columns of the batch.
            DataError: An expression fails on some rows, or gives NULL where that is not allowed.
        """
        expressions, errors = self._expressions()
        raise_mistakes(errors)
        made = compute(expressions, batch.schema)
        columns = project(self.params, batch.schema, made.results)
        evaluated = evaluate(made.bound, batch)
        arrays = [column.of(batch, evaluated.values) for column in columns]
        schema = schema_of_columns(columns, batch.schema)
        result = pa.RecordBatch.from_arrays(arrays, schema=schema)
        nulls = not_null_failures(columns, arrays)
        if nulls or evaluated.failures:
            failures = nulls | evaluated.failures
            remedy = None if evaluated.failures else NULL_REMEDY
            rows = batch.num_rows
            raise refusal(failures, rows, result.filter(pa.array(sound(failures, rows))), remedy)
        return result

    def _expressions(self) -> tuple[dict[str, Expression], list[ConfigError]]:
        """By column, and what is wrong with those that are left out."""
        texts = ((f"set.{name}", text, ("set", name)) for name, text in self.params.set.items())
        sound, errors = parse_expressions(texts)
        return {str(one.place[-1]): one for one in sound}, errors

    def _primitive_by_name(self, primitive: str) -> str:
        """The primitive when no types are known: a column that is set is trusted to keep its."""
        select = self.params.select
        gone = {*self.params.drop, *self.params.rename}
        lost = [
            name
            for name in _required(primitive)
            if name in gone or (select is not None and name not in select)
        ]
        return "row" if lost else primitive


def _required(primitive: str) -> list[str]:
    return [
        name
        for name, shape in columns_of(primitive).items()
        if name not in ENVELOPE_NAMES and not shape.nullable
    ]


def _primitive(primitive: str, before: pa.Schema, after: pa.Schema) -> str:
    """The primitive, as long as its columns are there and of the types that they had."""
    lost = [name for name in _required(primitive) if name not in after.names]
    changed = [
        name
        for name in columns_of(primitive)
        if name in after.names
        and name in before.names
        and after.field(name).type != before.field(name).type
    ]
    return "row" if lost or changed else primitive
