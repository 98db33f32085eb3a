"""The action `union`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import pyarrow as pa
from pydantic import Field

from nvisy_connectors.tabular.widening import common_type, fit, plain_type
from nvisy_dagster.sdk import (
    Capabilities,
    CombiningAction,
    ConfigError,
    EdgeType,
    KernelAction,
    Params,
    raise_mistakes,
)

Columns = Literal["all", "common"]


class UnionParams(Params):
    """Which columns the records have."""

    columns: Columns = Field(default="all", examples=["common"])
    """`all`: every column of every input, null where an input does not have it. `common`: only
    those that all inputs have."""


class Union(CombiningAction[UnionParams], KernelAction[UnionParams]):
    """Make one stream of inputs whose columns differ.

    Columns are matched by name. Where their types differ, a column gets the type that holds all
    values of both: `int64` for `int32` and `int64`, a decimal for an integer and a decimal, a
    `double` for `int32` and `double`. Types of which nothing can be lost but has no such type, such
    as text and number, or `int64` and `double`, are refused before the run: give one of them
    another type with `convert`. The columns of every input must be known before the run.

    Records keep their ids and, within an input, their order. Nothing is compared: use `deduplicate`
    against records that come twice.
    """

    name = "union"
    capabilities = Capabilities(row_wise=True, concurrency=2)

    def output_of(self, inputs: Mapping[str, EdgeType]) -> EdgeType:
        """All columns, or those in common, each of a type that holds all values.

        Raises:
            ConfigError: The columns of an input are not known, or a column has no such type.
        """
        [primitive] = {one.primitive for one in inputs.values()}
        unknown = [name for name, one in inputs.items() if one.schema is None]
        if unknown and len(inputs) > 1:
            raise_mistakes([
                ConfigError(
                    f"the columns that {name!r} brings are not known before the run",
                    remedy='say their types with "columns" of the source',
                    tag="schema",
                )
                for name in unknown
            ])
        schemas = {name: one.schema for name, one in inputs.items() if one.schema is not None}
        return EdgeType(primitive, self._united(schemas) if schemas else None)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with all columns, each of its type.

        Raises:
            pa.ArrowInvalid: A value does not fit, which the types rule out.
        """
        made = self.made and self.made.schema
        schema = made or self._united({"input": batch.schema})
        if batch.schema.equals(schema):
            return batch
        places = [batch.schema.get_field_index(field.name) for field in schema]
        arrays = [
            pa.nulls(batch.num_rows, field.type)
            if place < 0
            else fit(batch.column(place), field.type)
            for field, place in zip(schema, places, strict=True)
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _united(self, schemas: Mapping[str, pa.Schema]) -> pa.Schema:
        names = list(dict.fromkeys(name for schema in schemas.values() for name in schema.names))
        if self.params.columns == "common":
            names = [name for name in names if all(name in s.names for s in schemas.values())]
        errors: list[ConfigError] = list(_alike(names, schemas))
        fields: list[pa.Field] = []
        for name in names:
            try:
                fields.append(_united_field(name, schemas))
            except ConfigError as error:
                errors.append(error)
        raise_mistakes(errors)
        return pa.schema(fields)


def _united_field(name: str, schemas: Mapping[str, pa.Schema]) -> pa.Field:
    """The field that holds what a column of several schemas holds.

    Raises:
        ConfigError: There is none.
    """
    found = {node: s.field(name) for node, s in schemas.items() if name in s.names}
    (first, field), *others = found.items()
    kind = plain_type(field.type)
    widest = first
    for node, other in others:
        wider = common_type(kind, other.type)
        if wider is None:
            raise ConfigError(
                f"column {name!r} is {_shown(found[widest].type)} from {widest!r} and "
                f"{_shown(other.type)} from {node!r}, and no type holds all values of both",
                remedy='give one of them another type with "convert", or rename it with "map"',
                tag="schema",
            )
        if not wider.equals(kind):
            kind, widest = wider, node
    nullable = len(found) < len(schemas) or any(one.nullable for one in found.values())
    # What a field says besides goes on if all say the same.
    same = all(one.equals(field, check_metadata=True) for one in found.values())
    metadata = field.metadata if same else None
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


def _alike(names: Sequence[str], schemas: Mapping[str, pa.Schema]) -> Iterator[ConfigError]:
    """Columns that expressions could not tell apart."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other == name:
            continue
        one, two = (
            next(node for node, schema in schemas.items() if column in schema.names)
            for column in (other, name)
        )
        if one != two:
            yield ConfigError(
                f"{one!r} has a column {other!r} and {two!r} one {name!r}, which differ only by "
                "case",
                remedy='give them one name with "map"',
                tag="schema",
            )


def _shown(kind: pa.DataType) -> str:
    return str(kind)[:100]
