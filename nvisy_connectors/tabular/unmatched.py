"""Making records of those that belong to none of the other input of a join."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.tabular.join_layout import Layout, taken
from nvisy_connectors.tabular.widening import fit, plain_type
from nvisy_dagster.sdk.envelope import ENVELOPE, derive, derive_joined, payload, payload_schema

if TYPE_CHECKING:
    from nvisy_connectors.tabular.join import JoinParams


def of_left(batch: pa.RecordBatch, schema: pa.Schema | None, node_id: str) -> pa.RecordBatch:
    """What is made of records of the left when there is nothing in the right, not even columns.

    Args:
        batch: The records.
        schema: What was promised; without it, the columns of the right are missing.
        node_id: The node that makes them.
    """
    names = payload_schema(batch.schema).names
    if schema is None:
        columns = _columns(
            batch, [field.with_type(plain_type(field.type)) for field in _own(batch)]
        )
    else:
        fields = list(payload_schema(schema))
        columns = _columns(batch, fields, {name: name for name in names})
    nobody = pa.nulls(batch.num_rows, ENVELOPE.field("_id").type)
    return derive_joined(batch, nobody, columns, node_id=node_id)


def of_right(batch: pa.RecordBatch, layout: Layout, node_id: str) -> pa.RecordBatch:
    """What is made of records of the right that belong to none of the left."""
    told = {name: name for name in layout.shared}
    told |= {field.name: name for name, field in layout.right.items()}
    return _derived(batch, _columns(batch, list(layout.payload), told), node_id)


def of_right_alone(
    batch: pa.RecordBatch, params: "JoinParams", schema: pa.Schema | None, node_id: str
) -> pa.RecordBatch:
    """What is made of records of the right when there is nothing in the left, not even columns.

    Args:
        batch: The records.
        params: What the join was told.
        schema: What was promised; without it, the columns of the left are missing.
        node_id: The node that makes them.
    """
    coming = [field.name for field in taken(params, batch.schema, [])]
    told = {name: name for name in params.shared}
    if schema is None:
        fields = [batch.schema.field(name) for name in (*told, *coming)]
        columns = _columns(batch, [field.with_type(plain_type(field.type)) for field in fields])
    else:
        fields = list(payload_schema(schema))
        # Those of the right are the last ones, in their order.
        last = fields[len(fields) - len(coming) :]
        told |= {field.name: name for field, name in zip(last, coming, strict=True)}
        columns = _columns(batch, fields, told)
    return _derived(batch, columns, node_id)


def _derived(batch: pa.RecordBatch, columns: pa.RecordBatch, node_id: str) -> pa.RecordBatch:
    # Not the first child: that is what the same record becomes if it belongs to none in the left.
    rows = np.arange(batch.num_rows)
    return derive(batch, rows, columns, node_id=node_id, indexes=np.ones_like(rows))


def _own(batch: pa.RecordBatch) -> list[Any]:
    return list(payload(batch).schema)


def _columns(
    batch: pa.RecordBatch, fields: list[pa.Field], told: dict[str, str] | None = None
) -> pa.RecordBatch:
    """Columns of some fields, of the columns that these are told to be; without one null."""
    arrays: list[pa.Array] = []
    for field in fields:
        name = field.name if told is None else told.get(field.name)
        column = None if name is None else batch.column(name)
        arrays.append(
            pa.nulls(batch.num_rows, field.type) if column is None else fit(column, field.type)
        )
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
