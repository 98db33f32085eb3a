"""The columns that every record carries, whatever its primitive.

`_id`, `_parent_ids` and `_root_id` are 16 bytes each (shown as a UUID), `_source` says where the
root record came from: its URI and its position there (byte offset, row or page number).
"""

import datetime as dt

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.identity import array_to_ids, child_ids, ids_to_array, pair_ids

ID = pa.binary(16)
SOURCE = pa.struct([pa.field("uri", pa.string()), pa.field("position", pa.int64())])

ENVELOPE = pa.schema([
    pa.field("_id", ID, nullable=False),
    pa.field("_parent_ids", pa.list_(pa.field("item", ID, nullable=False)), nullable=False),
    pa.field("_root_id", ID, nullable=False),
    pa.field("_source", SOURCE),
    pa.field("_created_at", pa.timestamp("us", "UTC")),
    pa.field("_tags", pa.list_(pa.string())),
    pa.field("_metadata", pa.string()),
])
"""Arrow schema of the envelope, in the order in which it precedes the payload."""

ENVELOPE_NAMES = frozenset(ENVELOPE.names)


def payload_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without the envelope."""
    return pa.schema([field for field in schema if field.name not in ENVELOPE_NAMES])


def payload(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch without the envelope."""
    return batch.select([n for n in batch.schema.names if n not in ENVELOPE_NAMES])


def with_envelope(  # noqa: PLR0913 - one argument per column of the envelope
    columns: pa.RecordBatch,
    *,
    ids: npt.NDArray[np.uint64],
    uri: str | pa.Array,
    positions: npt.NDArray[np.int64] | None = None,
    created_at: dt.datetime | pa.Array | None = None,
    metadata: pa.Array | None = None,
) -> pa.RecordBatch:
    """Put the envelope of a root record before each row of a source's payload.

    Args:
        columns: The payload.
        ids: `(n, 2)` ids, see `identity.root_ids`.
        uri: Where the records came from: one for all, or an array with one per record.
        positions: Place of each record in there.
        created_at: When the data came into being, for instance an object's last change; a value
            that stays the same from run to run keeps an upsert idempotent. One for all, or an
            array with one per record.
        metadata: One JSON text per record.

    Raises:
        ConfigError: A payload column has the name of an envelope column.
    """
    n = columns.num_rows
    id_array = ids_to_array(ids)
    uris = _column(uri, SOURCE.field("uri").type, n)
    places = pa.nulls(n, pa.int64()) if positions is None else pa.array(positions, pa.int64())
    return _assemble(
        [
            id_array,
            _lists(np.zeros(n + 1, np.int32), ids_to_array(ids[:0]), "_parent_ids"),
            id_array,
            pa.StructArray.from_arrays([uris, places], fields=list(SOURCE)),
            _column(created_at, ENVELOPE.field("_created_at").type, n),
            _lists(np.zeros(n + 1, np.int32), pa.array([], pa.string()), "_tags"),
            pa.nulls(n, pa.string()) if metadata is None else metadata,
        ],
        columns,
    )


def derive(
    parents: pa.RecordBatch,
    parent_rows: npt.NDArray[np.int64],
    columns: pa.RecordBatch,
    *,
    node_id: str,
    indexes: npt.NDArray[np.int64] | None = None,
) -> pa.RecordBatch:
    """Put before each row of `columns` the envelope of a child of one of the parents.

    The id of a child is a hash of its parent's id, the node and its index among its siblings, so
    that a replay makes the same ids.

    Args:
        parents: Batch with envelope.
        parent_rows: For each child, the row of its parent.
        columns: Payload of the children.
        node_id: The node that makes them.
        indexes: Index of each child among its siblings; 0 when each parent has one child.

    Raises:
        ConfigError: A payload column has the name of an envelope column.
    """
    taken = parents.select(ENVELOPE.names).take(pa.array(parent_rows))
    if indexes is None:
        indexes = np.zeros(len(parent_rows), np.int64)
    ids = child_ids(taken.column(0), node_id, indexes)
    offsets = np.arange(len(parent_rows) + 1, dtype=np.int32)
    return _assemble(
        [
            ids_to_array(ids),
            _lists(offsets, taken.column(0), "_parent_ids"),
            *taken.columns[2:],
        ],
        columns,
    )


def derive_joined(
    lefts: pa.RecordBatch, right_ids: pa.Array, columns: pa.RecordBatch, *, node_id: str
) -> pa.RecordBatch:
    """Put before each row of `columns` the envelope of a child of two parents.

    Its root and where it came from are those of the left one. Its id is a hash of both ids and the
    node or, where there is no right one, that of the only child of the left one.

    Args:
        lefts: The left parent of each child, with envelope.
        right_ids: The id of the right one, null where there is none.
        columns: Payload of the children.
        node_id: The node that makes them.

    Raises:
        ConfigError: A payload column has the name of an envelope column.
    """
    taken = lefts.select(ENVELOPE.names)
    left = array_to_ids(taken.column(0))
    paired = right_ids.is_valid().to_numpy(zero_copy_only=False)
    filled = right_ids.fill_null(bytes(16)) if right_ids.null_count else right_ids
    ids = pair_ids(taken.column(0), filled, node_id)
    if not paired.all():
        alone = child_ids(taken.column(0), node_id, np.zeros(len(left), np.int64))
        ids = np.where(paired[:, None], ids, alone)
    parents = np.stack([left, array_to_ids(filled)], axis=1).reshape(-1, 2)
    there = np.stack([np.ones(len(left), np.bool_), paired], axis=1).reshape(-1)
    offsets = np.zeros(len(left) + 1, np.int32)
    np.cumsum(1 + paired, out=offsets[1:])
    return _assemble(
        [
            ids_to_array(ids),
            _lists(offsets, ids_to_array(parents[there]), "_parent_ids"),
            *taken.columns[2:],
        ],
        columns,
    )


def _column(value: object, kind: pa.DataType, count: int) -> pa.Array:
    return value if isinstance(value, pa.Array) else pa.repeat(pa.scalar(value, kind), count)


def _lists(offsets: npt.NDArray[np.int32], values: pa.Array, name: str) -> pa.Array:
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), values, type=ENVELOPE.field(name).type
    )


def _assemble(envelope: list[pa.Array], columns: pa.RecordBatch) -> pa.RecordBatch:
    taken = [name for name in columns.schema.names if name in ENVELOPE_NAMES]
    if taken:
        raise ConfigError(
            f"the data has columns that are named like the envelope's: {', '.join(taken)}",
            remedy="rename them, or leave them out",
            tag="schema",
        )
    schema = pa.schema([*ENVELOPE, *columns.schema], metadata=columns.schema.metadata)
    return pa.RecordBatch.from_arrays([*envelope, *columns.columns], schema=schema)
