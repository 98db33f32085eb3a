"""Trying again CSV records that were rejected, from their bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from nvisy_connectors.object.cursor import ObjectCursor
from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.csv_blocks import CsvBlock, Layout
from nvisy_connectors.object.formats.csv_options import CsvReadOptions
from nvisy_connectors.object.formats.csv_reader import CsvReader, rejected, settled_in
from nvisy_connectors.object.formats.csv_scan import Text
from nvisy_dagster.sdk import ConfigError, RejectedRecord

LAYOUT = "csv"
"""Entry of what is known of a rejected record: how the file that held it was written down."""

_NOT_ONE = "its bytes are no single record"


@dataclass(frozen=True)
class Reread:
    """What became of some records."""

    rows: pa.RecordBatch
    found: list[RejectedRecord]
    """What each row was rejected as."""
    rejected: list[RejectedRecord]


def reread(
    reader: CsvReader, kept: Sequence[RejectedRecord], settled: ObjectCursor | None
) -> Reread:
    """Records from their bytes; blocks, for threads.

    Args:
        reader: Of the source as it is told now.
        kept: What was rejected.
        settled: Where a read would stand now, if the params do not tell the columns.

    Raises:
        ConfigError: Nothing tells the columns.
    """
    schema = reader.declared(reader.params)
    inferred = schema is None
    if schema is None:
        if settled is None or settled.columns is None:
            raise ConfigError(
                "there is no file from which the types of the columns could be told",
                remedy="declare `columns` with their types",
                tag="schema",
            )
        schema = settled_in(settled.columns).schema
    form = reader.form(schema, inferred=inferred)
    rows: list[pa.RecordBatch] = [pa.RecordBatch.from_pylist([], schema)]
    found: list[RejectedRecord] = []
    bad: list[RejectedRecord] = []
    for one in kept:
        layout = _layout(one.metadata[LAYOUT], reader)
        if missing := [name for name in schema.names if name not in layout.names]:
            bad.append(_again(one, f"its file has no column {missing[0]!r}"))
            continue
        block = _block(one, layout)
        if len(block.ends) != 1:
            bad.append(_again(one, block.bad.get(0, _NOT_ONE)))
            continue
        salvaged = reader.parse(block, form)
        rows.append(salvaged.rows)
        found += [one] * salvaged.rows.num_rows
        told = [rejected(block, index, one.uri) for index in salvaged.bad]
        bad += [replace(one, reason=again.reason, tag=again.tag) for again in told]
    return Reread(pa.concat_batches(rows), found, bad)


def _again(one: RejectedRecord, reason: str) -> RejectedRecord:
    place = f"line {one.position} (byte {one.metadata['byte']})"
    return replace(one, reason=f"{place}: {reason}", tag="format")


def _layout(told: dict[str, Any], reader: CsvReader) -> Layout:
    """How the file was written down, but for what the params tell now."""
    layout = Layout.from_json(told)
    options: CsvReadOptions = reader.options
    given = {
        "delimiter": options.delimiter,
        "quote": options.quote,
        "escape": options.escape,
        "encoding": None if options.encoding == "utf-16" else options.encoding,
    }
    marks: dict[str, Any] = {name: mark or None for name, mark in given.items() if mark is not None}
    if options.escape_bare is not None:
        marks["escape_bare"] = options.escape_bare
    names = reader.params.columns
    own = tuple(names) if names and not options.header else layout.names
    return Layout(replace(layout.dialect, **marks), own)


def _block(one: RejectedRecord, layout: Layout) -> CsvBlock:
    data = one.data or b""
    dialect = layout.dialect
    text = Text(dialect.codes(data), dialect, last=True, fields=len(layout.names))
    cut = text.records()
    ends = cut.all() * dialect.width
    if len(ends):
        ends[-1] = len(data)
    # An object that is nowhere: only its bytes are looked at.
    info: ObjectInfo | Any = None
    start, line = int(one.metadata["byte"]), one.position or 1
    line_ends = np.array([len(data)], np.int64)
    return CsvBlock(info, layout, start, line, data, ends, line_ends, cut.bad, len(data))
