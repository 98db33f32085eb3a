"""Batches as JSON lines and as Arrow IPC bytes.

In JSON, ids are UUID text, bytes are base64, timestamps are ISO 8601 in UTC, JSON-valued fields are
JSON, and there is neither NaN nor infinity.
"""

from collections.abc import Iterable, Mapping
from typing import Any, cast

import pyarrow as pa
from pydantic_core import from_json as parse_json

from nvisy_dagster.sdk.arrow_schema import columns_of
from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.identity import format_uuid
from nvisy_dagster.sdk.json_values import Decode, decode_id, decoder, dump, parse_object
from nvisy_dagster.sdk.records import raise_failed, readable_rows, rows_to_batch
from nvisy_dagster.sdk.validation import validate


def to_json(batch: pa.RecordBatch, primitive: str = "row") -> list[str]:
    """One JSON object per record, a member per column.

    Args:
        batch: Envelope and payload columns.
        primitive: Tells which payload fields are JSON-valued; those of a `row` are texts.

    Raises:
        DataError: A value cannot be written: NaN, an infinity, text that should be JSON and is not.
    """
    failed: dict[int, str] = {}
    encoders = _encoders(primitive)
    lines: list[str] = []
    for index, row in enumerate(readable_rows(batch, failed)):
        if index in failed:
            continue
        try:
            lines.append(_line(row, encoders))
        except ValueError as error:
            failed[index] = str(error)
    raise_failed(failed, batch.num_rows, primitive)
    return lines


def from_json(
    lines: Iterable[str], primitive: str, schema: pa.Schema | None = None
) -> pa.RecordBatch:
    """A validated batch of the records that `to_json` wrote.

    Args:
        lines: One JSON object each.
        primitive: Primitive of the records, the one that they were written with.
        schema: Types of all columns. Without it, columns beyond those of the primitive have the
            types of JSON: what was bytes or a timestamp in such a column stays a text.

    Raises:
        ConfigError: There is neither a line nor a schema to know the dimension of vectors from.
        DataError: Some lines are not valid records; `rows` has `column: reason` by line, from 0.
    """
    decoders = _decoders(primitive, schema)
    failed: dict[int, str] = {}
    rows: list[dict[str, Any]] = []
    total = 0
    for total, line in enumerate(lines, 1):
        try:
            rows.append(_row(parse_object(line), decoders))
        except (ValueError, OverflowError) as error:
            failed[total - 1] = str(error)
    raise_failed(failed, total, primitive)
    batch = rows_to_batch(rows, primitive, schema)
    validate(batch, primitive)
    return batch


def to_ipc(batch: pa.RecordBatch) -> bytes:
    """The batch as an Arrow IPC stream, uncompressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def from_ipc(data: bytes) -> pa.RecordBatch:
    """The batch of an Arrow IPC stream, checked so that reading it is safe.

    Raises:
        DataError: The bytes are not one; no row can be named.
    """
    try:
        with pa.ipc.open_stream(data) as reader:
            table = reader.read_all().combine_chunks()
        batches = table.to_batches()
        batch = batches[0] if batches else pa.RecordBatch.from_pylist([], schema=table.schema)
        batch.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"not an Arrow IPC stream: {error}", rows={}) from error
    return batch


def _encode_id(value: bytes) -> str:
    return format_uuid(value)


def _encode_ids(value: list[bytes]) -> list[str]:
    return [format_uuid(item) for item in value]


def _decode_ids(value: object) -> list[bytes]:
    if not isinstance(value, list):
        raise ValueError("expected a list")  # noqa: TRY004 - about the text, not its type
    return [decode_id(item) for item in cast("list[Any]", value)]


def _encoders(primitive: str) -> dict[str, Decode]:
    json_columns = dict.fromkeys(_json_columns(primitive), parse_json)
    ids: dict[str, Decode] = {"_id": _encode_id, "_root_id": _encode_id}
    return {**json_columns, **ids, "_parent_ids": _encode_ids}


def _decoders(primitive: str, schema: pa.Schema | None) -> dict[str, Decode]:
    decoders: dict[str, Decode] = {}
    for name, shape in columns_of(primitive).items():
        # Every dimension decodes alike.
        decoders[name] = decoder(shape.arrow_type(1))
    if schema is not None:
        decoders.update({field.name: decoder(field.type) for field in schema})
    decoders.update(dict.fromkeys(_json_columns(primitive), dump))
    ids: dict[str, Decode] = {"_id": decode_id, "_root_id": decode_id, "_parent_ids": _decode_ids}
    return {**decoders, **ids}


def _json_columns(primitive: str) -> list[str]:
    shapes = columns_of(primitive).items()
    return [name for name, shape in shapes if shape.kind in {"json", "json_object"}]


def _line(row: dict[str, Any], encoders: Mapping[str, Decode]) -> str:
    for name, encode in encoders.items():
        if row.get(name) is not None:
            try:
                row[name] = encode(row[name])
            except ValueError as error:
                raise ValueError(f"{name}: not valid JSON: {error}") from error
    try:
        return dump(row)
    except ValueError:
        # Only now is it worth finding out which column it was.
        for name, value in row.items():
            try:
                dump(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        raise


def _row(values: dict[str, Any], decoders: Mapping[str, Decode]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in values.items():
        decode = decoders.get(name)
        try:
            row[name] = value if decode is None or value is None else decode(value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{name}: {error}") from error
    return row
