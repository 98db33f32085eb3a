"""Stored points -> Arrow batches of embeddings with their envelope."""

import binascii
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from nvisy_connectors.vector.qdrant.points import ENVELOPE_FIELDS, VECTOR
from nvisy_connectors.vector.qdrant.store import GRAPH_FIELD, SINK_FIELD, Page
from nvisy_dagster.sdk.envelope import ENVELOPE
from nvisy_dagster.sdk.identity import ids_to_array, key_ids

ColumnType = Literal["string", "integer", "number", "boolean"]

_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
}
_OWN = frozenset({*ENVELOPE_FIELDS, SINK_FIELD, GRAPH_FIELD})
_PLAIN = ("text", "model", "tokens")


def to_records(
    page: Page, *, dimension: int, columns: Mapping[str, ColumnType], model: str, location: str
) -> pa.RecordBatch:
    """Turn points into embedding records.

    Points that a sink of ours wrote get their envelope back; others are root records of their own,
    with an id made of `location` and the point's id.

    Args:
        page: The points.
        dimension: Dimension of the collection.
        columns: Payload fields that become columns, and their types.
        model: Model of points whose payload does not name one.
        location: URI of the collection.
    """
    payloads = page.payloads
    vectors = pa.array(np.ascontiguousarray(page.vectors, np.float32).ravel(), pa.float32())
    arrays: list[pa.Array] = [
        *_envelope(page, location),
        _column(payloads, "text", pa.string()),
        pa.FixedSizeListArray.from_arrays(vectors, dimension),
        pa.array([_as(pa.string(), p.get("model")) or model for p in payloads], pa.string()),
        _column(payloads, "tokens", pa.int32()),
        *(_column(payloads, name, _TYPES[kind]) for name, kind in columns.items()),
        _rest(payloads, _OWN.union(_PLAIN, columns)),
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema(dimension, columns))


def schema(dimension: int, columns: Mapping[str, ColumnType]) -> pa.Schema:
    """Schema of the records of a collection of this dimension."""
    return pa.schema([
        *ENVELOPE,
        pa.field("text", pa.string()),
        pa.field(VECTOR, pa.list_(pa.float32(), dimension), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("tokens", pa.int32()),
        *(pa.field(name, _TYPES[kind]) for name, kind in columns.items()),
        pa.field("payload", pa.string()),
    ])


def _envelope(page: Page, location: str) -> list[pa.Array]:
    keys = pa.array([str(point) for point in page.ids], pa.string())
    fresh = ids_to_array(key_ids(location, keys)).to_pylist()
    ids: list[bytes] = []
    roots: list[bytes] = []
    sources: list[dict[str, Any]] = []
    for point, payload, made in zip(page.ids, page.payloads, fresh, strict=True):
        root = _id(payload.get("_root_id"))
        own = _id(point) if root is not None else None
        ids.append(own or made)
        roots.append(root if own and root else made)
        source = payload.get("_source") if own else None
        sources.append(_source(source, location))
    others = [
        pa.array([read(p.get(name)) for p in page.payloads], ENVELOPE.field(name).type)
        for name, read in _READERS.items()
    ]
    parents, created, tags, metadata = others
    return [
        pa.array(ids, pa.binary(16)),
        parents,
        pa.array(roots, pa.binary(16)),
        pa.array(sources, ENVELOPE.field("_source").type),
        created,
        tags,
        metadata,
    ]


def _id(value: object) -> bytes | None:
    if not isinstance(value, str):
        return None
    try:
        return uuid.UUID(value).bytes
    except (ValueError, binascii.Error):
        return None


def _source(value: object, location: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"uri": location, "position": None}
    position = value.get("position")
    return {
        "uri": _as(pa.string(), value.get("uri")),
        "position": position if isinstance(position, int) else None,
    }


def _parents(value: object) -> list[bytes]:
    found = [_id(item) for item in value] if isinstance(value, list) else []
    return [item for item in found if item is not None]


def _created(value: object) -> Any:  # noqa: ANN401 - a scalar of pyarrow or None
    if not isinstance(value, str):
        return None
    try:
        return pa.scalar(value, pa.string()).cast(pa.timestamp("us", "UTC")).as_py()
    except pa.ArrowInvalid:
        return None


def _tags(value: object) -> list[str] | None:
    return [str(item) for item in value] if isinstance(value, list) else None


def _metadata(value: object) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        try:
            json.loads(value)
        except ValueError:
            return json.dumps(value)
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_READERS: Mapping[str, Callable[[object], Any]] = {
    "_parent_ids": _parents,
    "_created_at": _created,
    "_tags": _tags,
    "_metadata": _metadata,
}


def _column(payloads: Sequence[Mapping[str, Any]], name: str, kind: pa.DataType) -> pa.Array:
    return pa.array([_as(kind, payload.get(name)) for payload in payloads], kind)


def _as(kind: pa.DataType, value: object) -> Any:  # noqa: ANN401 - one return per type
    """A payload value as a column of this type holds it; null when it is of another kind."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if pa.types.is_boolean(kind):
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if pa.types.is_floating(kind):
        return float(value)
    bound = 1 << (kind.bit_width - 1)
    return int(value) if -bound <= value < bound and value == int(value) else None


def _rest(payloads: Sequence[Mapping[str, Any]], taken: frozenset[str]) -> pa.Array:
    others = [{k: v for k, v in payload.items() if k not in taken} for payload in payloads]
    texts = [
        json.dumps(o, ensure_ascii=False, separators=(",", ":")) if o else None for o in others
    ]
    return pa.array(texts, pa.string())
