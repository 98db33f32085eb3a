"""A few records as a table that a person can read: long texts cut, vectors and bytes shortened."""

import datetime as dt
import json
import os
from typing import Any

import dagster as dg
import pyarrow as pa

from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.identity import format_uuid

PREVIEW_VARIABLE = "NVISY_PREVIEW"
LONGEST_TEXT = 200
SHOWN_NUMBERS = 4
ID_BYTES = 16


def previews_wanted() -> bool:
    """Whether the environment allows records to be shown: `NVISY_PREVIEW=off` forbids it."""
    return os.environ.get(PREVIEW_VARIABLE, "").lower() not in {"off", "0", "false", "no"}


def preview_table(batch: pa.RecordBatch, redactor: Redactor) -> dg.TableMetadataValue:
    """The records of a small batch, a row each; the payload before the envelope."""
    batch = batch.select(sorted(batch.schema.names, key=ENVELOPE_NAMES.__contains__))
    names = batch.schema.names
    columns = [[redactor.scrub(_cell(value)) for value in column] for column in batch.columns]
    records = [
        dg.TableRecord(dict(zip(names, values, strict=True)))
        for values in zip(*columns, strict=True)
    ]
    schema = dg.TableSchema([
        dg.TableColumn(field.name, type=str(field.type)) for field in batch.schema
    ])
    return dg.MetadataValue.table(records, schema)


def _cell(scalar: Any) -> str:  # noqa: ANN401 - an Arrow scalar of any type
    if not scalar.is_valid:
        return ""
    kind = scalar.type
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list(scalar.values)
    if pa.types.is_fixed_size_binary(kind) and kind.byte_width == ID_BYTES:
        return format_uuid(scalar.as_py())
    if _is_bytes(kind):
        return f"{len(scalar.as_buffer())} bytes"
    return _cut(_text(_json_value(scalar.as_py())))


def _list(values: pa.Array) -> str:
    shown = [_cell(value) for value in values[:SHOWN_NUMBERS]]
    if pa.types.is_floating(values.type):
        shown = [
            f"{value.as_py():.4g}" if value.is_valid else "" for value in values[:SHOWN_NUMBERS]
        ]
    if len(values) <= SHOWN_NUMBERS:
        return _cut(f"[{', '.join(shown)}]")
    return _cut(f"[{', '.join(shown)}, ...") + f" {len(values)} values]"


def _is_bytes(kind: pa.DataType) -> bool:
    return (
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _json_value(value: Any) -> Any:  # noqa: ANN401 - any value of a record
    if isinstance(value, bytes):
        return format_uuid(value) if len(value) == ID_BYTES else f"{len(value)} bytes"
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, dict):
        return {str(key): _json_value(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(child) for child in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _text(value: Any) -> str:  # noqa: ANN401 - any JSON
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."
