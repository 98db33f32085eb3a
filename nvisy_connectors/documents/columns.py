"""Answers of the parser as columns of documents."""

import json
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa

from nvisy_connectors.documents.worker import Parsed
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import derive, payload_schema

PAGES = pa.list_(pa.struct([("number", pa.int32()), ("start", pa.int64()), ("end", pa.int64())]))
HEADINGS = pa.list_(
    pa.struct([("level", pa.int32()), ("title", pa.string()), ("start", pa.int64())])
)
TABLES = pa.list_(
    pa.struct([
        ("page", pa.int32()),
        ("start", pa.int64()),
        ("end", pa.int64()),
        ("rows", pa.list_(pa.list_(pa.string()))),
    ])
)

MADE = pa.schema([
    *payload_schema(schema_of("document")),
    pa.field("pages", PAGES),
    pa.field("headings", HEADINGS),
    pa.field("tables", TABLES),
])
"""Payload of a document that was parsed."""


def carried(schema: pa.Schema, column: str) -> list[pa.Field]:
    """Payload fields that a document keeps of its file."""
    return [f for f in payload_schema(schema) if f.name != column and f.name not in MADE.names]


def documents(
    files: pa.RecordBatch, answers: list[Parsed], *, column: str, node_id: str
) -> pa.RecordBatch:
    """The documents of some files, with envelope.

    Args:
        files: The files, with envelope.
        answers: What the parser said to each.
        column: Which column holds them.
        node_id: The node that parses.
    """
    found = [json.loads(answer.answer) for answer in answers]
    for row, document in enumerate(found):
        document["title"] = document["title"] or _first(document["headings"]) or _title(files, row)
        _number(document["tables"], document["pages"])
    extra = carried(files.schema, column)
    columns = pa.RecordBatch.from_arrays(
        [
            *(pa.array([each[f.name] for each in found], f.type) for f in MADE),
            *(files.column(field.name) for field in extra),
        ],
        schema=pa.schema([*MADE, *extra]),
    )
    made = derive(files, np.arange(files.num_rows), columns, node_id=node_id)
    told = [
        _merged(old, new["metadata"])
        for old, new in zip(made["_metadata"].to_pylist(), found, strict=True)
    ]
    place = made.schema.get_field_index("_metadata")
    return made.set_column(place, made.schema.field(place), pa.array(told, pa.string()))


def _number(tables: list[dict[str, Any]], pages: list[dict[str, Any]]) -> None:
    """Say of each table on which page it begins, where there are pages."""
    starts = np.array([page["start"] for page in pages], np.int64)
    for table in tables:
        page = int(np.searchsorted(starts, table["start"], side="right"))
        table["page"] = pages[page - 1]["number"] if page else None


def _first(headings: list[dict[str, Any]]) -> str | None:
    return headings[0]["title"] if headings else None


def _title(files: pa.RecordBatch, row: int) -> str | None:
    """What the file is called: by its own column, else by its name."""
    place = files.schema.get_field_index("title")
    if place >= 0 and pa.types.is_string(files.schema.field(place).type):
        title = files.column(place)[row].as_py()
        if title:
            return title
    source = files.column("_source")[row].as_py()
    try:
        path = PurePosixPath(unquote(urlsplit(source["uri"] if source else "").path))
    except ValueError:
        return None
    return path.stem if path.suffix else None


def _merged(old: str | None, new: dict[str, Any]) -> str | None:
    """Metadata of a file and its document; what was known before stays."""
    try:
        before = json.loads(old) if old else {}
    except ValueError:
        return old
    if not isinstance(before, dict):
        return old
    merged = new | before
    return json.dumps(merged, ensure_ascii=False, separators=(",", ":")) if merged else old
