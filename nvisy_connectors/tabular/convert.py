"""The action `convert`."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from nvisy_connectors.tabular import bulk
from nvisy_connectors.tabular.conversion import Conversion, TypeName, casts_of, check_types
from nvisy_connectors.tabular.evaluation import sound
from nvisy_connectors.tabular.reshaping import check_fields, reshaping_of
from nvisy_connectors.tabular.syntax import MAX_CHARACTERS
from nvisy_dagster.sdk import Capabilities, DataError, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, derive
from nvisy_dagster.sdk.errors import raise_mistakes

ColumnName = Annotated[str, Field(min_length=1, max_length=255)]
ExpressionText = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Primitive = Literal[
    "document",
    "chunk",
    "row",
    "blob",
    "embedding",
    "completion",
    "structured_output",
    "tool_call_trace",
    "image",
    "audio",
    "fine_tune_sample",
    "raw",
]


class ConvertParams(Params):
    """What `convert` makes of a record: columns of other types, then a record of another kind."""

    columns: Annotated[dict[ColumnName, TypeName | Conversion], Field(max_length=500)] = Field(
        default_factory=dict,
        examples=[{"quantity": "INTEGER", "paid_on": {"type": "DATE", "format": "%d.%m.%Y"}}],
    )
    """New types of columns, as in SQL's `CAST`: `{"quantity": "INTEGER"}`. With more to say:
    `{"paid_on": {"type": "DATE", "format": "%d.%m.%Y", "on_error": "null"}}`, where `format` is how
    dates are written, for `strptime`, and `on_error` what becomes of a value that does not fit:
    `reject` (the default) leaves its record to `on_error` of the node, `null` makes it NULL, `fail`
    ends the run whatever the node says.

    Texts are read as JSON where they become lists or structs, and these are written as JSON where
    they become text; bytes are UTF-8. A number with a fraction does not fit an integer. A value
    that may take more than 1 GiB of memory on the way fails its record.
    """
    to: Primitive | None = None
    """Primitive that the records become. Each one is a new record then, whose parent is the one it
    was made of; without it records keep their ids."""
    fields: dict[ColumnName, ExpressionText] = Field(default_factory=dict)
    """With `to`: what fields of the new records are made of, each a SQL expression over the columns
    (with their new types). A field that is not named takes the column of its name; `text` of a
    document the `transcript`, the `caption` or else the `data`, decoded; `messages` of a
    `fine_tune_sample` the `prompt` and the `text` of a completion.

    A column that becomes a field is not kept beside it; all others come along.
    """
    dimensions: int | None = Field(default=None, ge=1, le=1_000_000)
    """With `to` an `embedding`: the dimensions of its vectors, where the column has lists of any
    length. A record whose list has another length fails."""

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        if not self.columns and self.to is None:
            raise ValueError("name at least one of columns and to")
        if self.to is None and self.fields:
            raise ValueError("fields are those of a primitive: name it with to")
        if self.to != "embedding" and self.dimensions is not None:
            raise ValueError('dimensions are those of an embedding: only with "to": "embedding"')
        folded = {name.lower() for name in ENVELOPE_NAMES}
        for name in self.columns:
            if name.lower() in folded:
                raise ValueError(f"{name!r} belongs to the envelope, which is kept as it is")
        return self

    def conversions(self) -> Mapping[str, Conversion]:
        """The columns, whichever way they are written."""
        return {
            name: Conversion(type=one) if isinstance(one, str) else one
            for name, one in self.columns.items()
        }


class Convert(KernelAction[ConvertParams]):
    """Give columns other types, and make records of one primitive those of another.

    A value that does not fit its new type fails its record, unless its column says otherwise with
    an `on_error` of its own; NULL stays NULL. So does a record that is no valid record of the
    primitive that it is to become: bytes that are not UTF-8, a vector of another dimension.
    """

    name = "convert"
    capabilities = Capabilities(row_wise=True, concurrency=2)
    requires = ("duckdb",)
    extra = "tabular"

    @classmethod
    def prepare(cls, params: Sequence[ConvertParams]) -> None:
        """Parse the expressions of all nodes together."""
        bulk.prepare(cls.name, (text for one in params for text in one.fields.values()))

    def output(self, incoming: EdgeType) -> EdgeType:
        """The columns with their new types, of the new primitive.

        Raises:
            ConfigError: A type or an expression is not known or does not fit, a column is not
                there, or nothing says what a required field is made of.
        """
        params = self.params
        to = params.to or self._primitive(incoming)
        errors = check_types(params.conversions())
        if params.to is not None:
            errors += check_fields(params.fields, params.to)
        raise_mistakes(errors)
        if incoming.schema is None:
            return EdgeType(to)
        schema = casts_of(params.conversions(), incoming.schema).schema
        if params.to is not None:
            shape = reshaping_of(params.to, params.fields, params.dimensions, schema)
            schema = shape.schema.with_metadata(schema.metadata)
        return EdgeType(to, schema)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Convert a batch.

        Raises:
            ConfigError: The params do not fit the columns of the batch.
            DataError: Values of some rows do not fit.
            NvisyError: A value does not fit that must.
        """
        converted, failures = casts_of(self.params.conversions(), batch.schema).of(batch)
        rows = np.flatnonzero(sound(failures, batch.num_rows))
        if failures:
            schema = casts_of(self.params.conversions(), batch.schema).schema
            kept = converted.take(pa.array(rows))
            converted = pa.RecordBatch.from_arrays(kept.columns, schema=schema)
        if self.params.to is not None:
            params = self.params
            shape = reshaping_of(self.params.to, params.fields, params.dimensions, converted.schema)
            columns, more = shape.of(converted)
            good = np.flatnonzero(sound(more, converted.num_rows))
            failures |= {int(rows[row]): reason for row, reason in more.items()}
            columns = columns.replace_schema_metadata(batch.schema.metadata)
            converted = derive(converted, good, columns, node_id=self.node_id)
        if failures:
            raise DataError(
                f"{len(failures)} of {batch.num_rows} rows fail: {failures[min(failures)]}",
                rows=dict(sorted(failures.items())),
                remedy='correct the data, or let the column\'s "on_error" be "null"',
                result=converted,
            )
        return converted

    def _primitive(self, incoming: EdgeType) -> str:
        """What records of a primitive are when columns have other types: rows, if its own have."""
        from nvisy_dagster.sdk.arrow_schema import columns_of

        own = columns_of(incoming.primitive)
        if incoming.schema is None:
            return "row" if own.keys() & self.params.columns.keys() else incoming.primitive
        after = casts_of(self.params.conversions(), incoming.schema)
        changed = {cast.name for cast in after.casts}
        return "row" if own.keys() & changed else incoming.primitive
